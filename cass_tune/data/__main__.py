"""Check a copy of a data set on disk, and show what is in it.

    python -m cass_tune.data [NAME --root DIR] [--sheet FILE] [--statistics]

Without NAME, the catalogue. Exit code 0: the set can be used as it is; 1: some of its images cannot be read; others as
of every command (`cass_tune.ending`).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cass_tune import ending
from cass_tune.config import Data
from cass_tune.console import Console
from cass_tune.data.catalog import CATALOGUE, Entry, entry_of, list_images
from cass_tune.data.listing import Listing
from cass_tune.data.medmnist import PREFIX
from cass_tune.data.medmnist_sets import SETS
from cass_tune.data.wording import PART_NAMES, counted, listed
from cass_tune.guard import guarded

FIELDS = (
    *("table", "path_column", "label_column", "label_columns", "split_column", "group_column"),
    *("test_fraction", "split_seed", "image_size_px"),
)
"""Fields of a trial's data that matter here; their options have the same names, without ``data.``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    console, given = Console(), _parse(argv)
    return guarded(lambda: _check(given, console) if given.name else _show_catalogue(console), console)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m cass_tune.data", description=description)
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a data set; the catalogue without it")
    parser.add_argument("--root", metavar="DIR", help="folder of the images")
    parser.add_argument("--sheet", metavar="FILE", type=Path, help="write some images of each class as a picture")
    parser.add_argument("--statistics", action="store_true", help="mean and std of the training images")
    for item in dataclasses.fields(Data):
        if item.name in FIELDS:
            text = f"as --data.{item.name.replace('_', '-')} of a study (default: {item.default!r})"
            kind = type(item.default)
            option = f"--{item.name.replace('_', '-')}"
            parser.add_argument(option, dest=item.name, type=kind, default=item.default, metavar="VALUE", help=text)
    return parser.parse_args(argv)


def _show_catalogue(console: Console) -> int:
    for name, entry in CATALOGUE.items():
        console.say(f"{name}: {entry.title}", *_entry_lines(entry))
    console.say(f"{PREFIX}NAME: MedMNIST version 3, and with _64 (images: _128, _224) behind the name the larger")
    for name in SETS:
        entry = entry_of(f"{PREFIX}{name}")
        assert entry is not None
        console.say(f"  {name}: {entry.task}; {entry.images} in all; {entry.licence}", f"    {'; '.join(entry.labels)}")
    return ending.DONE


def _entry_lines(entry: Entry) -> Iterator[str]:
    yield f"  {entry.task}" + (f"; {entry.images} in all" if entry.images else "")
    if entry.labels:
        yield f"  named {'; '.join(entry.labels)}"
    yield f"  licence: {entry.licence}"
    if entry.obtain:
        yield f"  {entry.obtain}"
    if entry.mean:
        from cass_tune.data.inspection import text_of

        yield f"  published mean {text_of(entry.mean)}, std {text_of(entry.std)}"
    if entry.published_weights:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in entry.published_weights.items())
        yield f"  class weights of the published code (the wrong way round, never used): {shown}"
    if entry.source:
        yield f"  {entry.source}"


def _check(given: argparse.Namespace, console: Console) -> int:
    chosen = {name: getattr(given, name) for name in FIELDS}
    data = Data(name=given.name, root=given.root, on_bad_image="skip", **chosen)
    entry = entry_of(data.name)
    if entry is not None:
        console.say(f"{data.name}: {entry.title}", *_entry_lines(entry))
    listing = list_images(data, console.counter("images"))
    console.say(*_listing_lines(listing, data, entry))
    if given.statistics:
        from cass_tune.data.inspection import channel_statistics, text_of

        mean, std = channel_statistics(listing, data.image_size_px, console.counter("training images"))
        what = "volumes" if listing.spatial_dims == 3 else f"images at {data.image_size_px} px"
        console.say(f"training {what}: mean {text_of(mean)}, std {text_of(std)}")
    if given.sheet is not None:
        from cass_tune.data.inspection import save_sheet

        save_sheet(listing, given.sheet)
        console.say(f"picture: {given.sheet}")
    return ending.FAILED if listing.bad_images else ending.DONE


def _listing_lines(listing: Listing, data: Data, entry: Entry | None) -> Iterator[str]:
    from cass_tune.data.inspection import count_lines, look, look_lines, plural

    yield f"{len(listing.items)} {plural(listing)}, {listing.task}, fingerprint {listing.fingerprint[:16]}"
    yield from (f"  {line}" for line in count_lines(listing))
    yield from (f"  {line}" for line in _unlike(listing, entry))
    root = Path(data.root).expanduser() if data.root else None
    yield from look_lines([look(listing, item, root) for item in listing.items])
    if listing.bad_images:
        reasons = [f"{path} ({reason})" for path, reason in listing.bad_images.items()]
        yield f"cannot be read, {counted(len(reasons), 'file')}: {listed(reasons, separator='; ')}"
    yield from (f"note: {text}" for text in listing.warnings)


def _unlike(listing: Listing, entry: Entry | None) -> Iterator[str]:
    """Yield how a copy differs from what is published of its set."""
    if entry is None:
        return
    found = len(listing.items) + len(listing.bad_images)
    if entry.images and found != entry.images:
        yield f"not the whole set: {found} images of {entry.images}"
    counts = listing.counts()
    other = [
        f"{PART_NAMES[part]} {name} {counts.get(part, {}).get(name, 0)} of {count}"
        for part, expected in entry.counts.items()
        for name, count in expected.items()
        if counts.get(part, {}).get(name, 0) != count
    ]
    if other:
        yield f"unlike the published counts: {listed(other)}"


if __name__ == "__main__":
    sys.exit(main())
