"""A study in one file: packed, checked, unpacked, and every table the same as before."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis import tables, write_report
from analysis.bundle import MANIFEST, main, pack, unpack
from cass_tune.errors import UsageError
from tests.analysis.synthetic import SMALL, Root, cells

TRIALS = cells(SMALL, "pretrain.batch_size", (8, 16), (0, 1))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "results", demo=True)
    root.plan(TRIALS)
    for trial in TRIALS[:-2]:
        root.finish(trial, 0.5 + trial.seed / 10, 0.4)
    root.fail(TRIALS[-2])
    return root


def repack(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write a bundle again with other contents."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    other = file.with_name("other.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return other


def test_every_table_is_the_same(root: Root, tmp_path: Path) -> None:
    text = write_report(root.study, {})
    file = pack(root.study)
    study = unpack(Path(str(file)), tmp_path / "elsewhere")
    rendered = tables.render(study).replace("elsewhere", "results")  # in the paths of logs
    assert rendered == tables.render(root.study)
    assert write_report(study, {}).split("written to")[0].replace("elsewhere", "results") == text.split("written to")[0]
    written = {path.name: path.read_bytes() for path in Path(str(root.study.tables)).iterdir()}
    assert written and written == {path.name: path.read_bytes() for path in Path(str(study.tables)).iterdir()}


def test_the_same_records_give_the_same_file(root: Root) -> None:
    path = Path(str(pack(root.study)))
    first = path.read_bytes()
    write_report(root.study, {})  # what is derived is not packed
    assert Path(str(pack(root.study))).read_bytes() == first


def test_neither_weights_nor_checkpoints_are_packed(root: Root) -> None:
    folder = Path(str(root.results.trial(root.digest(TRIALS[0])).path))
    for below in ("checkpoints", "ends/cnn"):
        (folder / below).mkdir(parents=True)
    for name in ("cnn.safetensors", "checkpoints/1.json", "ends/cnn/2.json", "holder.json", ".holder.lock"):
        (folder / name).write_bytes(b"large")
    with zipfile.ZipFile(Path(str(pack(root.study)))) as archive:
        names = {Path(name).name for name in archive.namelist() if folder.name in name}
        assert archive.testzip() is None
    assert {"result.json", "config.json"} <= names
    assert not names & {"cnn.safetensors", "1.json", "2.json", "holder.json", ".holder.lock"}


def test_the_pretraining_is_packed_where_its_result_says(root: Root) -> None:
    trial, stage = TRIALS[-1], "ab" * 32
    root.compute(stage, "pretrain", [1.0, 2.0])
    root.finish(trial, 0.5, stage={"digest": stage, "epoch": 2, "segments": [{"stage": stage, "start": 0, "end": 2}]})
    with zipfile.ZipFile(Path(str(pack(root.study)))) as archive:
        assert any(name.startswith(f"stages/{stage[:12]}/epochs/") for name in archive.namelist())


def result_of(contents: dict[str, bytes]) -> str:
    return next(name for name in contents if name.endswith("result.json"))


def edit(contents: dict[str, bytes]) -> None:
    name = result_of(contents)
    contents[name] = contents[name].replace(b"0.", b"1.", 1)


def add(contents: dict[str, bytes]) -> None:
    contents["trials/000000000000/result.json"] = b"{}"


def take_away(contents: dict[str, bytes]) -> None:
    del contents[result_of(contents)]


def escape(contents: dict[str, bytes]) -> None:
    manifest = json.loads(contents[MANIFEST])
    manifest["sha256"]["../evil"] = "0"
    contents |= {"../evil": b"", MANIFEST: json.dumps(manifest).encode()}


def escape_by_study(contents: dict[str, bytes]) -> None:
    contents[MANIFEST] = json.dumps({**json.loads(contents[MANIFEST]), "study": "../../x"}).encode()


def plant(contents: dict[str, bytes]) -> None:
    manifest = json.loads(contents[MANIFEST])
    manifest["sha256"]["pandas.py"] = hashlib.sha256(b"print()").hexdigest()
    contents |= {"pandas.py": b"print()", MANIFEST: json.dumps(manifest).encode()}


def without_study(contents: dict[str, bytes]) -> None:
    manifest = json.loads(contents[MANIFEST])
    del manifest["study"]
    contents[MANIFEST] = json.dumps(manifest).encode()


def newer(contents: dict[str, bytes]) -> None:
    contents[MANIFEST] = json.dumps({**json.loads(contents[MANIFEST]), "version": 2}).encode()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit, r"result\.json has another SHA-256"),
        (add, r"trials/000000000000/result\.json was added"),
        (take_away, r"result\.json is missing"),
        (escape, r"\.\./evil lies outside the results root"),
        (escape_by_study, r"'\.\./\.\./x' lies outside"),
        (plant, r"pandas\.py is no record of the study"),
        (without_study, f"{MANIFEST} of .* is damaged \\('study'\\)"),
        (newer, "has layout 2 and this code reads 1"),
        (lambda contents: contents.pop(MANIFEST), f"has no {MANIFEST}"),
        (lambda contents: contents.update({MANIFEST: b"[]"}), f"{MANIFEST} of .* is damaged"),
    ],
)
def test_a_changed_bundle_is_not_unpacked(
    root: Root, tmp_path: Path, change: Callable[[dict[str, bytes]], None], expected: str
) -> None:
    file = repack(Path(str(pack(root.study))), change)
    with pytest.raises(UsageError, match=expected):
        unpack(file, tmp_path / "elsewhere" / "deep")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("cut", [0, 100, -30])
def test_a_bundle_that_was_cut_short(root: Root, tmp_path: Path, cut: int) -> None:
    file = Path(str(pack(root.study)))
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UsageError, match="is no bundle, or was cut short"):
        unpack(file, tmp_path / "elsewhere")


def test_a_large_bundle_is_read_in_parts(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Path(str(root.results.trial(root.digest(TRIALS[0])).path)) / "log.txt"
    log.write_bytes(bytes(100_000_000))
    file = Path(str(pack(root.study)))
    assert file.stat().st_size < 1_000_000
    tracemalloc.start()
    unpack(file, tmp_path / "there")
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 30_000_000
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=99_000_000))
    with pytest.raises(UsageError, match=r"have 0\.1 GB, and .* has room for 0\.1"):
        unpack(file, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_an_archive_that_cannot_be_read(root: Root, tmp_path: Path) -> None:
    content = bytearray(Path(str(pack(root.study))).read_bytes())
    start = content.index(b"PK\x01\x02")  # the first entry of its directory
    content[start + 10 : start + 12] = b"\x63\x00"  # a method of compression that nobody knows
    file = tmp_path / "strange.zip"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged"):
        unpack(file, tmp_path / "elsewhere")


def test_unpacking_replaces_nothing(root: Root, tmp_path: Path) -> None:
    file, into = Path(str(pack(root.study))), tmp_path / "elsewhere"
    unpack(file, into)
    unpack(file, into)  # the same files: nothing to say
    result = next(into.glob("trials/*/result.json"))
    result.write_text("{}")
    with pytest.raises(UsageError, match="is there and differs from the bundle's"):
        unpack(file, into)
    assert result.read_text() == "{}"


def test_commands(root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = str(root.results.root)
    assert main(["batch_ablation", "--results", results]) == 0
    path, checksum = capsys.readouterr().out.splitlines()
    sha256 = checksum.split()[1]
    assert main([path.split("  ")[0], "--into", str(tmp_path / "there")]) == 0
    assert f"SHA-256 of the bundle {sha256}" in capsys.readouterr().out
    assert main([path.split("  ")[0]]) == 2
    assert "is unpacked with --into DIR" in capsys.readouterr().err
    assert main(["batch_abl", "--results", results]) == 2
    assert "There are: batch_ablation" in capsys.readouterr().err
    assert main([str(tmp_path / "none.zip"), "--into", str(tmp_path / "there")]) == 2
    assert "There is no file" in capsys.readouterr().err
