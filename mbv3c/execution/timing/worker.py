"""The process in which one side of a benchmark runs.

    python -m mbv3c.execution.timing.worker MODE BUNDLE CPUS DEVICE

MODE is the name of a contender, or "profile"; or "contest", which is a profile that first stores
all outputs beside the library, and times a GPU's kernels by the device's own clock. CPUS are the
processors to stay on, such as 0,1, and there are as many threads. DEVICE is TVM's name of what
runs the library's kernels, cpu or opencl. The process says `{"ready": true}` when it is warm; then
it answers every line with a number N by one line of JSON: `measured`, the milliseconds of N
inferences, or, for "profile", of each of them the name and the microseconds of every function
called, in order; and `interruptions`, how often its processors were given to others meanwhile.
"""

import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from mbv3c.bundle import LIBRARY
from mbv3c.execution.opencl.runtime import by_calls, profiled
from mbv3c.execution.timing.contenders import CONTENDERS, Run, opened_device, read_input

if TYPE_CHECKING:
    from mbv3c.execution.timing.stopwatch import Call

PROFILE, CONTEST = "profile", "contest"
OUTPUTS = "outputs.npz"  # what a contest's candidates made, in their order

_WARM_RUNS = 10
_WARM_NS = 200_000_000
_BLOCK_WARM_RUNS = 2  # after a pause caches and clocks are cold
_AT_ONCE = 100  # runs whose calls the stopwatch has room for, with ten times as many kernels


def main(mode: str, bundle: str, cpus: str, device: str) -> None:
    """Open, warm up, and answer until the input ends."""
    chosen = [int(cpu) for cpu in cpus.split(",")]
    os.sched_setaffinity(0, chosen)
    # Libraries may print; our answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measure = _measuring(mode, Path(bundle), len(chosen), device)
    begin, runs = perf_counter_ns(), 0
    while runs < _WARM_RUNS or perf_counter_ns() - begin < _WARM_NS:
        measure(1)
        runs += 1
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        measure(_BLOCK_WARM_RUNS)
        before = _interruptions()
        measured = measure(int(line))
        answer = {"measured": measured, "interruptions": _interruptions() - before}
        print(json.dumps(answer), file=answers, flush=True)


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _measuring(mode: str, bundle: Path, threads: int, device: str) -> Callable[[int], list[Any]]:
    x = read_input(bundle)
    if mode in (PROFILE, CONTEST):
        return _profiled(bundle, x, device, storing=mode == CONTEST)
    run = CONTENDERS[mode].open(bundle, x, threads, device)
    return lambda runs: [_timed(run) for _ in range(runs)]


def _timed(run: Run) -> float:
    begin = perf_counter_ns()
    run()
    return (perf_counter_ns() - begin) / 1e6


def _profiled(
    bundle: Path, x: Any, name: str, *, storing: bool
) -> "Callable[[int], list[list[Call]]]":
    import tvm
    from tvm import relax

    from mbv3c.execution.host import arrays

    device = opened_device(name)
    library = tvm.runtime.load_module(str(bundle / LIBRARY))
    machine = relax.VirtualMachine(library, device)
    main, given = machine["main"], tvm.runtime.tensor(x, device)

    if storing:
        outputs: list[Any] = arrays(main(given))
        np.savez(bundle / OUTPUTS, **{f"{i}": output for i, output in enumerate(outputs)})

    def run() -> None:
        main(given)

    by_call = _by_stopwatch if platform.system() == "Linux" else _by_instrument
    timed = by_call(machine, device, run)

    def run_on_gpu() -> "list[Call]":
        with profiled() as times:
            names = [name for name, _ in timed(1)[0]]
        return by_calls(names, times)

    if storing and name != "cpu":
        return lambda runs: [run_on_gpu() for _ in range(runs)]
    return timed


def _by_stopwatch(
    machine: Any, device: Any, run: Callable[[], None]
) -> "Callable[[int], list[list[Call]]]":
    """Time calls from within the process's native code, which leaves caches as they are."""
    import tvm

    from mbv3c.execution.timing.stopwatch import INSTRUMENT, by_rounds, read_times, stopwatch_here

    watch = tvm.runtime.load_module(str(stopwatch_here()))
    begin, times = watch["begin"], watch["times"]
    begin(device)
    machine.set_instrument(INSTRUMENT)

    def some(runs: int) -> "list[list[Call]]":
        begin(device)
        for _ in range(runs):
            run()
        return by_rounds(read_times(bytes(times())), runs)

    def timed(runs: int) -> "list[list[Call]]":
        blocks = [some(min(_AT_ONCE, runs - at)) for at in range(0, runs, _AT_ONCE)]
        return [one for block in blocks for one in block]

    return timed


def _by_instrument(
    machine: Any, device: Any, run: Callable[[], None]
) -> "Callable[[int], list[list[Call]]]":
    """Time calls from Python, where there is no stopwatch."""
    calls: list[Call] = []
    begin = 0

    def instrument(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> None:
        nonlocal begin
        if before:
            begin = perf_counter_ns()
        else:
            device.sync()
            calls.append((name, (perf_counter_ns() - begin) / 1e3))

    machine.set_instrument(instrument)

    def once() -> "list[Call]":
        calls.clear()
        run()
        return list(calls)

    return lambda runs: [once() for _ in range(runs)]


if __name__ == "__main__":
    main(*sys.argv[1:])
