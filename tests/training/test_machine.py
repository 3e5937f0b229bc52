"""What a row says of the machine: memory and utilisation."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from cass_tune.training import machine
from cass_tune.training.machine import Utilisation, peak_memory_gib, reset_peak_memory

CPU = torch.device("cpu")


def test_of_a_cpu_it_is_the_share_of_what_the_threads_could_have(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"perf_counter": 100.0, "process_time": 7.0}
    for name in clock:
        monkeypatch.setattr(machine.time, name, lambda name=name: clock[name])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    utilisation = Utilisation(CPU)
    clock.update(perf_counter=110.0, process_time=12.0)
    utilisation.look()
    assert utilisation.mean() == pytest.approx(5 / 20)
    utilisation.begin()
    clock.update(perf_counter=111.0, process_time=20.0)  # other threads than those of operations work, too
    assert utilisation.mean() == 1.0


def test_a_process_that_sleeps_is_idle_and_one_that_computes_is_not() -> None:
    utilisation = Utilisation(CPU)
    time.sleep(0.2)
    idle = utilisation.mean()
    utilisation.begin()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    busy = utilisation.mean()
    assert idle is not None and busy is not None and idle < 0.5 * busy


def test_of_a_gpu_it_is_the_mean_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers = [0.0], iter([80, 90, 40])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(answers))
    utilisation = Utilisation(torch.device("cuda"))
    for now[0] in (0.5, 1.1, 1.5, 2.2):  # two of them are due
        utilisation.look()
    assert utilisation.mean() == pytest.approx(0.85)
    utilisation.begin()
    assert utilisation.mean() == pytest.approx(0.4), "an epoch shorter than a second has its one sample"


def test_a_gpu_that_does_not_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(device: torch.device) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    assert Utilisation(torch.device("cuda")).mean() is None


def used_memory(block_mib: int) -> float | None:
    """Return the peak of a trial that allocates so much."""
    reset_peak_memory(CPU)
    block = bytearray(b"x") * (block_mib * 2**20)
    peak = peak_memory_gib(CPU)
    del block
    return peak


def test_the_memory_of_an_earlier_trial_is_forgotten_or_not_known() -> None:
    """In a process of its own: another's may keep freed memory, and then its trials do have it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        many, few, more = (pool.submit(used_memory, block_mib).result() for block_mib in (600, 300, 900))
    if sys.platform == "linux" and machine.PEAK_LINE in Path("/proc/self/status").read_text():
        assert many is not None and more is not None and many + 0.2 < more < many + 0.4
    assert few is None or (many is not None and many - 0.4 < few < many - 0.2)


def test_memory_that_the_system_cannot_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_resident", lambda: 0)  # as where there is no /proc
    most = iter([2**30, 2**30, 2**30 + 1024])
    monkeypatch.setattr(machine, "_most_resident", lambda: next(most))
    monkeypatch.setattr(machine, "_earlier", 0)
    reset_peak_memory(CPU)
    assert peak_memory_gib(CPU) is None
    assert peak_memory_gib(CPU) == 1 + 2**-20
