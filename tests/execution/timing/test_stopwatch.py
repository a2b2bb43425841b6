"""Calls are timed from native code, and from Python where there is none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from mbv3c.bundle import LIBRARY
from mbv3c.errors import ToolError
from mbv3c.execution.timing import worker
from mbv3c.execution.timing.stopwatch import Call, by_rounds, stopwatch_here
from mbv3c.execution.watching import run_watched
from mbv3c.job import Job
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import HOST_CPU
from mbv3c.targets.library.building import build_library

Way = Callable[[Any, Callable[[Any], Any]], Callable[[int], list[list[Call]]]]


@pytest.fixture(scope="module")
def built(
    blocks: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    path = tmp_path_factory.mktemp("worker") / LIBRARY
    optimized, _ = run_pipeline(blocks)
    lowered = build_library(BACKEND, optimized, Job(HOST_CPU), path).lowered
    return path, list(lowered.kernels)


@pytest.mark.parametrize("way", [worker._by_stopwatch, worker._by_instrument])
def test_every_call_of_every_run_is_timed(way: Way, built: tuple[Path, list[str]]) -> None:
    path, kernels = built
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    x = tvm.runtime.tensor(np.zeros((1, 3, 32, 32), np.float32))
    timed = way(tvm.cpu(), lambda instrument: run_watched(machine, "main", instrument, [x]))
    begin = perf_counter_ns()
    rounds = timed(130)  # more than the stopwatch is asked for at once
    whole = (perf_counter_ns() - begin) / 1e3
    assert len(rounds) == 130
    for calls in rounds:
        assert [name for name, _ in calls if name in kernels] == kernels
    assert sum(us for calls in rounds for _, us in calls) < whole
    assert all(us > 0 for calls in rounds for name, us in calls if name in kernels)


def test_the_stopwatch_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path))
    first = stopwatch_here()
    made = first.stat().st_mtime_ns
    assert first.is_relative_to(tmp_path)
    assert stopwatch_here() == first
    assert first.stat().st_mtime_ns == made


def test_rounds_that_are_not_equal_are_an_error() -> None:
    calls = [("a", 1.0), ("b", 2.0)] * 3
    assert by_rounds(calls, 3) == [calls[:2]] * 3
    for wrong in ([], calls[:5]):
        with pytest.raises(ToolError, match="calls in 3 runs"):
            by_rounds(wrong, 3)


def test_the_process_of_another_runtime_does_not_load_tvm() -> None:
    code = "import sys, mbv3c.execution.timing.worker; print('tvm_ffi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
