"""Results roots that would vanish with a rented machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cass_tune.ephemeral import Machine, ephemeral
from cass_tune.storage import place

MOUNTS = """
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
overlay /scratch overlay rw 0 0
10.0.0.5:/export /mnt/shared nfs4 rw 0 0
drive /content/drive fuse.drive rw 0 0
"""


def machine(tmp_path: Path, *, vendor: str = "", **environment: str) -> Machine:
    (tmp_path / "sys_vendor").write_text(vendor + "\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    return Machine(environment=environment, firmware=tmp_path, mounts=mounts)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("/tmp/results", "is a temporary folder"),
        ("/dev/shm/results", "lies in memory"),
        ("/scratch/results", "lies in the container's own file system"),
        ("/mnt/shared/results", None),
        ("/home/somebody/results", None),
        ("s3://bucket/results", None),
    ],
)
def test_on_a_cloud_machine(tmp_path: Path, root: str, words: str | None) -> None:
    warning = ephemeral(place(root), machine(tmp_path, vendor="Amazon EC2"))
    if words is None:
        assert warning is None
    else:
        assert warning is not None and root in warning and words in warning and "s3://BUCKET/PREFIX" in warning


@pytest.mark.parametrize(
    ("variable", "root", "is_kept"),
    [
        ("COLAB_RELEASE_TAG", "/content/results", False),
        ("COLAB_RELEASE_TAG", "/content/drive/MyDrive/results", True),
        ("KAGGLE_KERNEL_RUN_TYPE", "/kaggle/temp/results", False),
        ("KAGGLE_KERNEL_RUN_TYPE", "/kaggle/working/results", True),
    ],
)
def test_in_a_notebook_service(tmp_path: Path, variable: str, root: str, is_kept: bool) -> None:
    warning = ephemeral(Path(root), machine(tmp_path, **{variable: "1"}))
    assert (warning is None) == is_kept


def test_a_laptop_may_use_its_temporary_folder(tmp_path: Path) -> None:
    assert ephemeral(Path("/tmp/results"), machine(tmp_path, vendor="LENOVO")) is None


def test_this_machine_can_be_judged(tmp_path: Path) -> None:
    here = Machine()
    assert here.file_system(tmp_path) != ""
    assert ephemeral(tmp_path) is None or here.is_cloud()
