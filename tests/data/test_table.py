"""CSV tables: columns, drawn test parts, patients, and what each mistake is answered with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cass_tune.config import Data
from cass_tune.data.groups import merge_groups
from cass_tune.data.listing import Listing
from cass_tune.data.table import csv_listing
from cass_tune.errors import UsageError

MakeImage = Callable[..., Path]


@pytest.fixture
def images(tmp_path: Path, make_image: MakeImage) -> Path:
    """Return a folder with the different images 0.png to 9.png."""
    for number in range(10):
        make_image(f"{number}.png")
    return tmp_path


SOUND = ("0.png,cat,train", "1.png,cat,train", "2.png,dog,train", "3.png,cat,test", "4.png,dog,test")


def write(root: Path, *rows: str, header: str = "path,label,split", name: str = "labels.csv") -> Data:
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    return Data(name="csv", root=str(root))


def problems(data: Data) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        csv_listing(data)
    return caught.value.problems


def only_problem(data: Data) -> str:
    (text,) = problems(data)
    return text


def part_of(listing: Listing) -> dict[str, str]:
    return {item.path: item.split for item in listing.items}


def test_items(images: Path) -> None:
    listing = csv_listing(write(images, *reversed(SOUND)))
    assert [item.path for item in listing.items] == [f"{number}.png" for number in range(5)]
    assert listing.counts() == {"train": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}}
    assert listing.warnings == ()
    assert listing.open_image(listing.items[0]).mode == "RGB"


def test_other_columns_names_order_and_spreadsheet_habits(images: Path) -> None:
    rows = ["Training, cat ,0.png,x", "TRAIN,dog,./1.png,x", "", "Valid,cat,2.png,x", 'valid,dog,"3.png",x']
    rows += ["testing,cat,4.png,x", f"Test,dog,{images / '5.png'},x"]
    text = "\r\n".join(["Part,Diagnosis, File ,id", *rows])
    (images / "own.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    data = Data(
        name="csv", root=str(images), table="own.csv", path_column="File", label_column="Diagnosis", split_column="Part"
    )
    listing = csv_listing(data)
    assert listing.classes == ("cat", "dog")
    assert list(part_of(listing).values()) == ["train", "train", "val", "val", "test", "test"]


def test_an_absolute_table(images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    write(elsewhere, *SOUND)
    assert len(csv_listing(Data(name="csv", root=str(images), table=str(elsewhere / "labels.csv"))).items) == 5


def test_a_table_that_is_not_there(images: Path) -> None:
    text = only_problem(Data(name="csv", root=str(images)))
    for words in ("labels.csv", "No such file", "--data.table", "relative to --data.root"):
        assert words in text


def test_an_empty_table(images: Path) -> None:
    assert "has a header but no rows" in only_problem(write(images))
    (images / "labels.csv").write_text("")
    assert all("its columns are none" in text for text in problems(Data(name="csv", root=str(images))))


def test_a_table_that_is_no_utf8(images: Path) -> None:
    data = write(images, *SOUND)
    (images / "labels.csv").write_bytes("path,label\n0.png,Läsion\n".encode("latin-1"))
    text = only_problem(data)
    assert "must be UTF-8" in text and "Save it as CSV UTF-8" in text


def test_a_table_that_is_no_csv(images: Path) -> None:
    assert "is not valid CSV" in only_problem(write(images, '0.png,"cat"x,train'))


def test_missing_columns(images: Path) -> None:
    path, label = problems(write(images, "0.png,cat", header="paths,class"))
    for words in (
        "no column 'path' (--data.path-column)",
        "'paths', 'class'",
        "Did you mean 'paths'?",
        "give its name",
    ):
        assert words in path
    assert "--data.label-column" in label


def test_semicolons(images: Path) -> None:
    assert all("separated by commas" in text for text in problems(write(images, "0.png;cat", header="path;label")))


def test_a_column_in_another_case_is_not_overlooked(images: Path) -> None:
    split, group = problems(write(images, "0.png,cat,train,p", header="path,label,Split,GROUP"))
    assert "no column 'split' (--data.split-column)" in split and "Did you mean 'Split'?" in split
    assert "'GROUP'" in group


@pytest.mark.parametrize("field", ["split_column", "group_column"])
def test_a_column_asked_for_is_not_ignored(images: Path, field: str) -> None:
    write(images, *SOUND)
    data = replace(Data(name="csv", root=str(images)), **{field: "patient"})
    assert f"no column 'patient' (--data.{field.replace('_', '-')})" in only_problem(data)


def test_a_column_that_occurs_twice(images: Path) -> None:
    text = only_problem(write(images, "0.png,cat,dog", header="path,label,label"))
    assert "'label' occurs 2 times" in text and "Rename" in text


def test_ragged_rows(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "5.png,cat", "6.png,a,b,train"))
    for words in ("must have the 3 cells", "7 (2), 8 (4)", "double quotes"):
        assert words in text


def test_paths_out_of_the_root(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "../5.png,cat,train", "/etc/passwd,cat,train", "a/../../x,cat,train"))
    for words in ("must lie inside --data.root", "7 ('../5.png')", "8 ('/etc/passwd')", "9 ('a/../../x')", "(3 rows)"):
        assert words in text
    assert str(images) in text


def test_dots_that_stay_inside(images: Path) -> None:
    assert "5.png" in part_of(csv_listing(write(images, *SOUND, "sub/../5.png,cat,train")))


def test_files_that_are_not_there(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "gone.png,cat,train"))
    for words in ("Every image must exist", "line 7 ('gone.png')", str(images), "forward slashes"):
        assert words in text


def test_a_path_twice(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "./0.png,cat,train"))
    for words in ("1 path occurs more than once", "0.png at lines 2, 7", "Remove"):
        assert words in text


def test_empty_cells(images: Path) -> None:
    path, label, split = problems(write(images, *SOUND, ",cat,train", "5.png, ,train", "6.png,cat,"))
    assert "'path' must name an image, but it is empty at line 7" in path
    assert "'label' must name a class, but it is empty at line 8" in label
    assert "'split' must name a part, but it is empty at line 9" in split
    assert "train|training, val|valid|validation, test|testing" in split


def test_an_unknown_part(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "5.png,cat,holdout"))
    assert "line 7 ('holdout')" in text and "Allowed: train|training" in text


def test_a_part_without_rows(images: Path) -> None:
    text = only_problem(write(images, "0.png,cat,train", "1.png,dog,train"))
    assert "no row of the test part" in text and "without the column a test part is drawn" in text
    text = only_problem(write(images, "0.png,cat,test", "1.png,dog,test"))
    assert "no row of the training part" in text


def test_an_unknown_class(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "5.png,dgo,test"))
    for words in ("Unknown class in the test part: 'dgo'", "Did you mean 'dog'?", "cat, dog"):
        assert words in text


def test_one_class_is_too_few(images: Path) -> None:
    assert "At least 2 classes" in only_problem(write(images, "0.png,cat,train", "1.png,cat,test"))
    assert "At least 2 classes" in only_problem(write(images, "0.png,cat", "1.png,cat", header="path,label"))


def test_a_bad_image(images: Path) -> None:
    (images / "0.png").write_bytes(b"broken")
    write(images, *SOUND)
    text = only_problem(Data(name="csv", root=str(images)))
    assert "1 file does not: 0.png" in text and "--data.on-bad-image skip" in text
    listing = csv_listing(Data(name="csv", root=str(images), on_bad_image="skip"))
    assert list(listing.bad_images) == ["0.png"] and len(listing.items) == 4


def test_patients_in_several_parts(images: Path) -> None:
    rows = ["0.png,cat,train,a", "1.png,dog,train,b", "2.png,cat,test,a", "3.png,dog,test,c", "4.png,dog,test,"]
    leak_data = write(images, *rows, header="path,label,split,group")
    alone, leak = csv_listing(leak_data).warnings
    assert "1 row has no group and count as alone: line 6" in alone
    for words in ("1 of 3 groups in column 'group'", "more than one part", ": a."):
        assert words in leak
    groups = {item.path: item.group for item in csv_listing(leak_data).items}
    assert groups == {"0.png": "group:a", "1.png": "group:b", "2.png": "group:a", "3.png": "group:c", "4.png": "4.png"}


@pytest.mark.parametrize("nobody", ["", "NaN", "nan"])
def test_images_of_nobody_are_no_group(images: Path, nobody: str) -> None:
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},{nobody}" for number in range(4)]
    listing = csv_listing(write(images, *rows, header="path,label,group"))
    assert [item.group for item in listing.items] == [item.path for item in listing.items]
    assert any("4 rows have no group and count as alone" in text for text in listing.warnings)


def test_groups_merge_transitively() -> None:
    paths = ["a", "b", "c", "d", "e", "f", "g"]
    hashes = ["1" * 64, "1" * 64, "2" * 64, "3" * 64, "3" * 64, "4" * 64, "5" * 64]
    given = [None, "p2", "p2", "p1", "p2", None, "p3"]
    expected = ["group:p1"] * 5 + ["f", "group:p3"]
    assert merge_groups(paths, hashes, given) == expected
    assert merge_groups(paths[::-1], hashes[::-1], given[::-1]) == expected[::-1]
    assert merge_groups(["a", "b"], ["1" * 64] * 2, [None, None]) == ["sha256:" + "1" * 16] * 2


def many(root: Path, make_image: MakeImage) -> list[str]:
    """Write 40 images, two per patient, images 2 and 3 (of two patients) identical; return the rows."""
    rows = []
    for number in range(40):
        make_image(f"many/{number}.png", size_px=4, seed=2 if number in (2, 3) else number)
        patient = {3: 2}.get(number, number // 2)
        rows.append(f"many/{number}.png,{'cat' if number < 20 else 'dog'},p{patient}")
    return rows


def test_a_drawn_test_part(tmp_path: Path, make_image: MakeImage) -> None:
    write(tmp_path, *many(tmp_path, make_image), header="path,label,group")
    listing = csv_listing(Data(name="csv", root=str(tmp_path), test_fraction=0.25))
    assert listing.counts()["test"] == {"cat": pytest.approx(5, abs=1), "dog": pytest.approx(5, abs=1)}
    assert len(listing.items) == 40 and not listing.of_split("val")
    parts: dict[str, set[str]] = {}
    for item in listing.items:
        parts.setdefault(item.group, set()).add(item.split)
    assert all(len(of_group) == 1 for of_group in parts.values())
    assert any("no column 'split'" in w and "--data.test-fraction 0.25" in w for w in listing.warnings)
    assert not any("more than one part" in w for w in listing.warnings)


def test_a_drawn_test_part_depends_on_the_seed_alone(tmp_path: Path, make_image: MakeImage) -> None:
    rows = many(tmp_path, make_image)
    write(tmp_path, *rows, header="path,label,group")
    first = csv_listing(Data(name="csv", root=str(tmp_path)))
    write(tmp_path, *reversed(rows), header="path,label,group")
    assert csv_listing(Data(name="csv", root=str(tmp_path))).fingerprint == first.fingerprint
    other = csv_listing(Data(name="csv", root=str(tmp_path), split_seed=1))
    assert part_of(other) != part_of(first)


def test_a_drawn_part_does_not_lose_a_class_in_silence(images: Path) -> None:
    (images / "0.png").write_bytes(b"broken")
    rows = ["0.png,bird", *(f"{number}.png,{'cat' if number < 6 else 'dog'}" for number in range(1, 10))]
    write(images, *rows, header="path,label")
    text = only_problem(Data(name="csv", root=str(images), on_bad_image="skip"))
    assert "none of bird" in text


@pytest.mark.real_data
def test_chest_xrays_leak_patients(real_data: Path) -> None:
    root = real_data / "nih_cxr_multilabel"
    data = Data(
        name="csv",
        root=str(root / "images"),
        table=str(root / "labels.csv"),
        path_column="image",
        label_column="folder_label",
        group_column="patient_id",
    )
    listing = csv_listing(data)
    assert len(listing.items) == 1000
    assert any("30 of 264 groups in column 'patient_id' lie in more than one part" in w for w in listing.warnings)


SEVERAL = ("0.png,1,0,train", "1.png,0,1.0,train", "2.png,1,1,train", "3.png,0,0,test", "4.png,1,1,test")


def write_several(root: Path, *rows: str, columns: str = "mass, cyst") -> Data:
    return replace(write(root, *rows, header="path,mass,cyst,split"), label_columns=columns)


def test_several_labels(images: Path) -> None:
    listing = csv_listing(write_several(images, *SEVERAL))
    assert listing.task == "multi-label" and listing.classes == ("cyst", "mass")
    assert [item.label for item in listing.items] == [("mass",), ("cyst",), ("cyst", "mass"), (), ("cyst", "mass")]
    assert listing.counts()["test"] == {"cyst": 0, "cyst|mass": 1, "mass": 0, "no label": 1}
    assert listing.fingerprint != csv_listing(write_several(images, *SEVERAL[:-1], "4.png,1,0,test")).fingerprint


@pytest.mark.parametrize("value", ["", "nan", "2", "-1", "0.5", "yes"])
def test_a_label_that_is_neither_0_nor_1(images: Path, value: str) -> None:
    text = only_problem(write_several(images, *SEVERAL, f"5.png,{value},0,train"))
    for words in ("Column 'mass' (--data.label-columns) must say 0 or 1", f"line 7 ({value!r})", "Allowed: 0 and 1"):
        assert words in text


def test_a_label_that_no_image_has_or_no_training_image(images: Path) -> None:
    assert "'mass' (--data.label-columns) has no 1" in "".join(
        problems(write_several(images, "0.png,0,1,train", "1.png,0,1,test"))
    )
    text = only_problem(write_several(images, "0.png,0,1,train", "1.png,1,1,test"))
    assert "Every class needs a usable image in the training part, but there is none of mass" in text


@pytest.mark.parametrize("columns", ["mass", "mass,mass", "mass,", ","])
def test_columns_that_are_no_list_of_labels(images: Path, columns: str) -> None:
    text = only_problem(write_several(images, *SEVERAL, columns=columns))
    assert "at least two different names" in text and repr(columns) in text and "--data.label-column:" in text


def test_other_columns_of_labels(images: Path) -> None:
    assert "no column 'cist' (--data.label-columns)" in only_problem(
        write_several(images, *SEVERAL, columns="mass,cist")
    )
    both = replace(write_several(images, *SEVERAL), label_column="mass")
    assert "give one of them" in only_problem(both)
    assert "without '|'" in only_problem(write_several(images, *SEVERAL, columns="a|b,c"))


def test_a_drawn_test_part_of_several_labels(tmp_path: Path, make_image: MakeImage) -> None:
    rows = [f"{number}.png,{number % 2},{int(number % 4 == 0)}" for number in range(40)]
    for number in range(40):
        make_image(f"{number}.png", size_px=4)
    write(tmp_path, *rows, header="path,odd,fourth")
    listing = csv_listing(Data(name="csv", root=str(tmp_path), label_columns="odd,fourth", test_fraction=0.25))
    assert listing.counts()["test"] == {"fourth": pytest.approx(2.5, abs=1), "no label": 2, "odd": 5}


def test_a_class_that_is_not_a_number(images: Path) -> None:
    text = only_problem(write(images, *SOUND, "5.png,NaN,train"))
    assert "'label' must name a class, but it is NaN at line 7" in text


def test_backslashes_of_windows(tmp_path: Path, make_image: MakeImage) -> None:
    for number in range(4):
        make_image(f"sub/{number}.png")
    make_image("odd\\name.png")
    rows = ["sub\\0.png,a,train", ".\\sub\\1.png,b,train", "sub\\2.png,a,test", "odd\\name.png,b,test"]
    assert list(part_of(csv_listing(write(tmp_path, *rows)))) == ["odd\\name.png", *(f"sub/{n}.png" for n in range(3))]
    text = only_problem(write(tmp_path, *rows, "C:\\data\\0.png,a,train"))
    assert "Every image must exist" in text and "forward slashes" in text
