"""The loop of docs/spot.md, as it stands there: what it runs is killed again and again, and the study ends.

Four times in CI; CASS_TUNE_TEST_KILLS=10 is the long form.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.faults import evidence
from tests.faults.scenes import Scene

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
KILLS = int(os.environ.get("CASS_TUNE_TEST_KILLS", "4"))


def the_loop() -> str:
    """Return the page's loop, with the disturbed study in place of the page's."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / "docs" / "spot.md").read_text(), re.DOTALL)
    (loop,) = [block for block in blocks if block.startswith("while true")]
    command = "python -m studies.batch_ablation"
    assert loop.count(command) == 1 and "sleep 5" in loop
    options = "--local --checkpoint-every-minutes 0.02"
    return loop.replace(command, f"{sys.executable} -m tests.faults.subject {options}").replace("sleep 5", "sleep 0.1")


def study_of(loop: subprocess.Popen[bytes]) -> int | None:
    """Return the process that the loop runs now."""
    children = Path(f"/proc/{loop.pid}/task/{loop.pid}/children").read_text().split()
    for child in children:
        if b"tests.faults.subject" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def test_a_loop_whose_study_is_killed_again_and_again_ends(tmp_path: Path) -> None:
    scene, rng = Scene(tmp_path, Random(0), local=True), Random(3)
    undisturbed = Scene(tmp_path / "undisturbed", Random(0), local=True)
    undisturbed.folder.mkdir()
    assert undisturbed.start().end() == 0
    log = (tmp_path / "log.txt").open("w")
    loop = subprocess.Popen(
        ["bash", "-c", the_loop()], cwd=REPOSITORY, env={**os.environ, "RESULTS": scene.root}, stdout=log, stderr=log
    )
    try:
        kills, last = 0, None
        while loop.poll() is None and kills < KILLS:
            pid = study_of(loop)
            if pid is not None and pid != last and any(h.pid == pid for h in evidence.holders(scene.results)):
                time.sleep(rng.uniform(0.2, 2.0))
                os.kill(pid, signal.SIGKILL)
                kills, last = kills + 1, pid
            time.sleep(0.05)
        assert loop.wait(120) == 0, (tmp_path / "log.txt").read_text()
    finally:
        loop.kill()
        log.close()
    assert kills == KILLS, "the study takes longer than that"
    assert evidence.lost(scene.results) == []
    assert evidence.numbers(scene.results) == evidence.numbers(undisturbed.results)
