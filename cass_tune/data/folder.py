"""Image folders: one folder per part, in it one folder per class, as the Brain Tumor MRI set of Kaggle has them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cass_tune.config import Data
from cass_tune.data.collect import Candidate, Found, collect, data_root
from cass_tune.data.index import Progress, no_progress
from cass_tune.data.listing import Listing, Split
from cass_tune.data.wording import PART_NAMES, PART_SYNONYMS, counted, listed, part_called
from cass_tune.errors import UsageError, did_you_mean

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Endings of image files, in any case; other files are ignored."""

_GENERAL_LAYOUT = (
    "Expected are a folder train (or training), a folder test (or testing) and optionally a folder val (or valid, "
    "validation), each with one folder of images per class"
)
_NO_TEST_HINT = (
    " Where there is no test part, --data.name csv with a table of path and label draws one (--data.test-fraction)."
)


def folder_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List your own folders: train, test and optionally val, each with one folder of images per class.

    Raises:
        UsageError: a part, a class or an image is missing or wrong.
    """
    return _listing(data, progress, f"{_GENERAL_LAYOUT}.{_NO_TEST_HINT}")


def brain_mri_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List the Brain Tumor MRI set as Kaggle has it: Training/ and Testing/, each with one folder of images per class.

    Raises:
        UsageError: a part, a class or an image is missing or wrong.
    """
    layout = (
        "Expected are the folders Training/ and Testing/ of the Kaggle set, each with one folder of images per class."
    )
    return _listing(data, progress, layout)


def dermofit_listing(data: Data, progress: Progress = no_progress) -> Listing:
    """List the Dermofit Image Library: one folder of images per class, of which a test part is drawn.

    Images may lie in folders of their own below that of their class; segmentation masks (names that end in ``mask``)
    are left out.

    Raises:
        UsageError: a class or an image is missing or wrong.
    """
    root = data_root(data)
    walk = _Walk(root)
    walk.read_classes(leave_out=lambda path: path.stem.casefold().endswith("mask"))
    drawn = (
        f"A test part was drawn (--data.test-fraction {data.test_fraction:g}, --data.split-seed {data.split_seed}), "
        "because the set has none."
    )
    found = Found(
        root=root,
        candidates=walk.candidates,
        classes={},
        problems=walk.problems(),
        warnings=[drawn, *walk.warnings()],
    )
    return collect(data, found, progress)


def _listing(data: Data, progress: Progress, layout: str) -> Listing:
    root = data_root(data)
    parts, others = _part_folders(root)
    _check_parts(root, parts, others, layout)
    walk = _Walk(root)
    for part, (folder,) in parts.items():
        walk.read_part(part, folder)
    found = Found(
        root=root,
        candidates=walk.candidates,
        classes=walk.classes,
        problems=walk.problems(),
        warnings=[*_other_folder_warnings(others), *walk.warnings()],
    )
    return collect(data, found, progress)


def _part_folders(root: Path) -> tuple[dict[Split, list[str]], list[str]]:
    """Return the names of the folders of each part, and those of the other folders."""
    parts: dict[Split, list[str]] = {}
    others: list[str] = []
    for entry in _entries(root):
        if not _is_folder(entry):
            continue
        part = part_called(entry.name)
        if part is None:
            others.append(entry.name)
        else:
            parts.setdefault(part, []).append(entry.name)
    return parts, others


def _check_parts(root: Path, parts: dict[Split, list[str]], others: list[str], layout: str) -> None:
    problems = [
        f"Each part must be one folder, but {str(root)!r} has {len(names)} for the {PART_NAMES[part]} part: "
        f"{', '.join(names)}. {layout}"
        for part, names in parts.items()
        if len(names) > 1
    ]
    for part in ("train", "test"):
        if part not in parts:
            near = [name for name in others if did_you_mean(name.casefold(), PART_SYNONYMS[part])]
            folders = sorted([*others, *(name for names in parts.values() for name in names)])
            problems.append(
                f"No folder of the {PART_NAMES[part]} part in {str(root)!r}{f' (is it {near[0]!r}?)' if near else ''}; "
                f"its folders are {listed(folders) or 'none'}. {layout}"
            )
    if problems:
        raise UsageError(*problems)


def _other_folder_warnings(others: Sequence[str]) -> list[str]:
    return [f"Ignored beside the parts: {counted(len(others), 'folder')} ({listed(others)})."] if others else []


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return a folder's entries sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"Folder {str(folder)!r} cannot be read: {error.strerror}. Check its permissions.") from error


@dataclass
class _Walk:
    """What was met on the way through the part folders."""

    root: Path
    candidates: list[Candidate] = field(default_factory=list)
    classes: dict[Split, set[str]] = field(default_factory=lambda: defaultdict(set))
    ignored: Counter[str] = field(default_factory=Counter)
    unclassed: Counter[str] = field(default_factory=Counter)
    not_utf8: list[str] = field(default_factory=list)

    def read_part(self, part: Split, name: str) -> None:
        """Take in the class folders of one part's folder."""
        self.classes[part] = set()
        for entry in _entries(self.root / name):
            if _is_folder(entry):
                self.classes[part].add(entry.name)
                self._read_class(part, entry)
            elif _is_image(entry.name):
                self.unclassed[name] += 1
            else:
                self.ignored[_ending(entry.name)] += 1

    def read_classes(self, leave_out: Callable[[Path], bool]) -> None:
        """Take in the class folders that lie in the root itself, without some of their files."""
        for entry in _entries(self.root):
            if _is_folder(entry):
                self._read_class(None, entry, leave_out)

    def _read_class(
        self, part: Split | None, folder: os.DirEntry[str], leave_out: Callable[[Path], bool] = lambda _: False
    ) -> None:
        for path in _files_below(Path(folder.path), frozenset()):
            if leave_out(path):
                continue
            if _is_image(path.name):
                self._add(path.relative_to(self.root).as_posix(), folder.name, part)
            else:
                self.ignored[_ending(path.name)] += 1

    def _add(self, path: str, label: str, part: Split | None) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            self.not_utf8.append(ascii(path))
        self.candidates.append(Candidate(path=path, label=label, split=part))

    def problems(self) -> list[str]:
        """Return what makes the tree unusable."""
        if not self.not_utf8:
            return []
        return [
            f"File and folder names must be UTF-8, but {counted(len(self.not_utf8), 'path is', 'paths are')} not: "
            f"{listed(self.not_utf8)}. Rename them."
        ]

    def warnings(self) -> list[str]:
        """Return what was left out."""
        texts = [
            f"Ignored {counted(count, 'image')} directly in {name}/: an image must lie in the folder of its class."
            for name, count in self.unclassed.items()
        ]
        if self.ignored:
            endings = [f"{ending} {count}" for ending, count in sorted(self.ignored.items())]
            texts.append(
                f"Ignored {counted(self.ignored.total(), 'file')} whose ending is not that of an image "
                f"({listed(endings)}); image files end in {', '.join(IMAGE_ENDINGS)}."
            )
        return texts


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False


def _is_image(name: str) -> bool:
    return name.casefold().endswith(IMAGE_ENDINGS)


def _ending(name: str) -> str:
    return Path(name).suffix or "no ending"


def _files_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the files in a folder and its sub-folders, linked ones too; `above` guards against circles of links."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _files_below(Path(entry.path), above | {real})
        else:
            yield Path(entry.path)
