"""The cache of resized images: the same pixels as decoding, whatever happens to it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cass_tune.data import pixel_cache
from cass_tune.data.listing import Item, Listing, fingerprint
from cass_tune.data.phantom import phantom_listing
from cass_tune.data.pixels import Pixels, decode, load_pixels
from cass_tune.errors import Interrupted
from tests.disks import small_disk

SIZE = 24


def listing(*images: np.ndarray, keys: str = "abcdefgh", label: str = "x") -> Listing:
    """Images in memory, each by its key; equal keys are equal files."""
    by_path = {f"{number}.png": image for number, image in enumerate(images)}
    items = tuple(
        Item(path=path, sha256=key, label=label, split="train", group=path)
        for path, key in zip(by_path, keys, strict=False)
    )
    return Listing(
        name="memory",
        items=items,
        open_image=lambda item: Image.fromarray(by_path[item.path]).convert("RGB"),
        fingerprint=fingerprint(items),
    )


RNG = np.random.default_rng(0)
COLOUR, OTHER = (RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(2))
GREY = RNG.integers(0, 256, (30, 40), dtype=np.uint8)
NEARLY = np.repeat(GREY[..., None], 3, axis=2)
NEARLY[:20, :20, 1] ^= 255
MIXED = listing(COLOUR, GREY, NEARLY, OTHER, GREY, keys="abcdb")


def assert_right(found: Pixels) -> None:
    for position, item in enumerate(found.listing.items):
        image = found[position]
        assert image.shape == (found.size_px, found.size_px, 3) and image.dtype == np.uint8
        assert np.array_equal(image, decode(found.listing, item, found.size_px)), item.path


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "pixels").iterdir() if not path.name.startswith(".")]


def index(cache: Path) -> dict[str, Any]:
    (folder,) = folders(cache)
    return json.loads((folder / "index.json").read_text())


def never(item: Item) -> Image.Image:
    raise AssertionError(f"{item.path} is decoded again")


def test_cached_pixels_equal_decoded_ones() -> None:
    phantom = phantom_listing()
    few = replace(phantom, items=phantom.items[::60])
    progress: list[tuple[int, int]] = []
    assert_right(load_pixels(few, SIZE, lambda done, total: progress.append((done, total))))
    assert progress[-1] == (10, 10)


def test_grey_is_decided_by_image_and_equal_files_are_kept_once(own_cache: Path) -> None:
    found = load_pixels(MIXED, SIZE)
    assert_right(found)
    assert {key: entry[0] for key, entry in index(own_cache).items()} == {
        "a": "rgb",
        "b": "grey",
        "c": "rgb",
        "d": "rgb",
    }
    (folder,) = folders(own_cache)
    assert ((folder / "grey").stat().st_size, (folder / "rgb").stat().st_size) == (SIZE**2, 9 * SIZE**2)
    assert [found[position].strides[-1] for position in range(5)] == [1, 0, 1, 1, 0]


@pytest.mark.parametrize("height", [1, 7, 30])
def test_one_pixel_in_colour_is_enough(height: int) -> None:
    image = np.repeat(GREY[:height, :, None], 3, axis=2)
    assert pixel_cache.is_grey(image)
    for row in range(height):
        image[row, 5, row % 2 + 1] ^= 1
        assert not pixel_cache.is_grey(image)
        image[row, 5, row % 2 + 1] ^= 1


def test_images_are_decoded_once_and_other_labels_need_no_new_cache(own_cache: Path) -> None:
    first = load_pixels(MIXED, SIZE)
    others = tuple(replace(item, label="other", split="test") for item in reversed(MIXED.items))
    again = load_pixels(replace(MIXED, items=others, open_image=never, fingerprint="other"), SIZE)
    assert np.array_equal(first[0], again[4]) and len(folders(own_cache)) == 1
    load_pixels(MIXED, SIZE + 1)
    assert len(folders(own_cache)) == 2, "another size"
    load_pixels(replace(MIXED, name="windowed"), SIZE)
    assert len(folders(own_cache)) == 3, "another way to open them"


def test_resizing_is_torchvisions() -> None:
    from torchvision.transforms import Resize

    item = MIXED.items[0]
    expected = np.asarray(Resize((SIZE, SIZE))(MIXED.open_image(item)))
    assert np.array_equal(decode(MIXED, item, SIZE), expected)


def spoil(folder: Path, how: str) -> None:
    match how:
        case "cut off":
            (folder / "rgb").write_bytes((folder / "rgb").read_bytes()[:-100])
        case "no index":
            (folder / "index.json").unlink()
        case "half an index":
            (folder / "index.json").write_text('{"a": ["rgb", 0')
        case "another index":
            (folder / "index.json").write_text('{"a": 3}')
        case "no pixels":
            (folder / "grey").unlink()


@pytest.mark.parametrize("how", ["cut off", "no index", "half an index", "another index", "no pixels"])
def test_a_cache_that_is_not_whole_is_made_again(how: str, own_cache: Path) -> None:
    load_pixels(MIXED, SIZE)
    (folder,) = folders(own_cache)
    spoil(folder, how)
    assert_right(load_pixels(MIXED, SIZE))
    assert set(index(own_cache)) == set("abcd")
    load_pixels(replace(MIXED, open_image=never), SIZE)


def test_a_damaged_image_is_decoded_and_the_cache_is_made_again(
    own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="cass_tune")
    load_pixels(MIXED, SIZE)
    (folder,) = folders(own_cache)
    content = bytearray((folder / "rgb").read_bytes())
    content[5] ^= 1
    (folder / "rgb").write_bytes(content)
    found = load_pixels(MIXED, SIZE)
    assert_right(found)
    assert_right(found)
    assert caplog.text.count("is damaged and was removed") == 1 and not folder.exists()
    assert_right(load_pixels(MIXED, SIZE))
    assert folder.exists()


def test_a_spawned_process_maps_the_files_itself() -> None:
    images = load_pixels(MIXED, SIZE)._images
    sent = pickle.dumps(images._cache)  # type: ignore[union-attr]
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).get("a")[0], images[0])  # type: ignore[index]


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def unusable(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    if how == "a file in the way":
        (folder / "pixels").touch()
    elif how == "no home":
        monkeypatch.delenv("CASS_TUNE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
    elif how == "a cap":
        monkeypatch.setenv("CASS_TUNE_CACHE_GIB", str(2000 / 2**30))
    else:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))


@pytest.mark.parametrize("how", ["a file in the way", "files of a limited size", "a cap", "no home"])
def test_a_cache_that_cannot_be_used_is_a_warning_and_the_same_pixels(
    how: str, own_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, logger="cass_tune")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        unusable(own_cache, how, monkeypatch)
        found = load_pixels(MIXED, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot cache pixels" in caplog.text and "CASS_TUNE_CACHE" in caplog.text
    assert_right(found)
    assert [found[position].strides[-1] for position in range(5)] == [1, 0, 1, 1, 0], "grey is grey all the same"
    assert not list(own_cache.glob("pixels/.*.tmp"))
    assert how in ("a file in the way", "no home") or not folders(own_cache)


def test_a_full_disk_is_a_warning_and_the_same_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 16 * 1024) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a disk")
        monkeypatch.setenv("CASS_TUNE_CACHE", str(tmp_path / "disk"))
        found = load_pixels(MIXED, 64)
        assert "No space left on device" in caplog.text
        assert_right(found)
        assert {path.suffix for path in (tmp_path / "disk" / "pixels").iterdir()} <= {".lock"}


def test_an_unreadable_cap_is_said_and_the_default_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own_cache: Path
) -> None:
    monkeypatch.setenv("CASS_TUNE_CACHE_GIB", "much")
    load_pixels(MIXED, SIZE)
    assert "CASS_TUNE_CACHE_GIB must be a number" in caplog.text and len(folders(own_cache)) == 1


def test_the_cache_that_was_not_used_for_the_longest_time_makes_room(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    each = listing(COLOUR), listing(OTHER, keys="z"), listing(GREY, keys="y")
    names = []
    for number, one in enumerate(each[:2]):
        load_pixels(one, SIZE)
        (new,) = set(folders(own_cache)) - set(names)
        os.utime(new, (1000 + number, 1000 + number))
        names.append(new)
    load_pixels(each[0], SIZE)  # used again
    monkeypatch.setenv("CASS_TUNE_CACHE_GIB", str(7 * SIZE**2 / 2**30))
    load_pixels(each[2], SIZE)
    assert names[0].exists() and not names[1].exists() and len(folders(own_cache)) == 2


def _slow_open(item: Item, log: Path) -> Image.Image:
    with log.open("a") as stream:
        stream.write(f"{item.sha256}\n")
    time.sleep(0.05)
    return Image.fromarray(COLOUR)


def _load(log: Path, cache: Path) -> None:
    os.environ["CASS_TUNE_CACHE"] = str(cache)
    many = replace(listing(*[COLOUR] * 8), open_image=lambda item: _slow_open(item, log))
    found = load_pixels(many, SIZE)
    assert np.array_equal(found[7], found[0])


def processes(count: int, log: Path, cache: Path) -> list[Any]:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_load, args=(log, cache)) for _ in range(count)]
    for process in started:
        process.start()
    return started


def test_of_several_processes_one_makes_the_cache(tmp_path: Path, own_cache: Path) -> None:
    log = tmp_path / "log"
    for process in processes(3, log, own_cache):
        process.join(60)
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == list("abcdefgh"), "each image once"


def test_a_process_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, own_cache: Path) -> None:
    """Its half cache takes no room once another process makes the same: a machine may be lost again and again."""
    log = tmp_path / "log"
    (process,) = processes(1, log, own_cache)
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().split()) < 5:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not folders(own_cache) and len(list(own_cache.glob("pixels/.*.tmp"))) == 1
    _load(tmp_path / "again", own_cache)
    assert len(folders(own_cache)) == 1 and not list(own_cache.glob("pixels/.*.tmp"))


def test_half_a_cache_of_other_images_may_be_in_work_unless_it_is_old(own_cache: Path) -> None:
    now = time.time()
    for name, age_s in (("new", 0.0), ("old", pixel_cache.STALE_S + 1)):
        (own_cache / "pixels" / f".{name}.tmp").mkdir(parents=True)
        os.utime(own_cache / "pixels" / f".{name}.tmp", (now - age_s, now - age_s))
    load_pixels(MIXED, SIZE)
    assert [path.name for path in own_cache.glob("pixels/.*.tmp")] == [".new.tmp"]


def test_whoever_waits_for_another_process_can_be_stopped(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "LOCK_POLL_S", 0.01)
    log = tmp_path / "log"
    (process,) = processes(1, log, own_cache)
    while not log.exists():
        time.sleep(0.01)

    def stop(done: int, total: int) -> None:
        raise Interrupted("the study is being stopped")

    many = replace(listing(*[COLOUR] * 8), open_image=never)
    with pytest.raises(Interrupted):
        load_pixels(many, SIZE, stop)
    process.join(60)
    assert process.exitcode == 0
