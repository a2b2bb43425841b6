"""The process in which one side of a benchmark runs.

    python -m mbv3c.execution.timing.worker MODE BUNDLE CPUS DEVICE

MODE is the name of a contender, or "profile"; or "contest", which is a profile that first stores
all outputs beside the library, and times a GPU's kernels by the device's own clock. CPUS are the
processors to stay on, such as 0,1, and there are as many threads. DEVICE is TVM's name of what
runs the library's kernels, cpu or opencl. The process says `{"ready": true}` when it is warm; then
it answers every line with a number N by one line of JSON: `measured`, the milliseconds of N
inferences, or, for "profile", of each of them the name and the microseconds of every function
called, in order; and `interruptions`, how often its processors were given to others meanwhile.

Contenders are a bundle's library, and other runtimes on the bundle's model. Each opens a model on
some threads and returns what runs one inference, always from Python and on an input that is there
already. Of an int8 bundle the others run the quantized model, too; else they compute in fp32,
whatever the bundle's precision is.
"""

import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY, MODEL, QUANTIZED, entry_for
from mbv3c.errors import UsageError
from mbv3c.execution.opencl.runtime import by_calls, device_info, load_runtime, profiled
from mbv3c.execution.timing.beside import ONNXRUNTIME, OPENVINO, check_other, open_onnxruntime
from mbv3c.execution.watching import run_watched
from mbv3c.feeds import Feed, arrays_of, load_feed
from mbv3c.installing import install_extra

if TYPE_CHECKING:
    from mbv3c.execution.timing.stopwatch import Call

Run = Callable[[], object]
Watched = Callable[[Any], object]  # runs one inference with an instrument, or with a named one
Measure = Callable[[int], list[Any]]  # what that many runs took
Open = Callable[[Path, Feed, int, str], Run]


@dataclass(frozen=True)
class Contender:
    """A runtime.

    Attributes:
        open: function from a bundle, an input, a number of threads and TVM's name of a device,
            which only the bundle's library can use, to what runs one inference.
        module: Python module that the runtime needs.
        package: package that brings the module.
        extra: extra of mbv3c that brings the package; empty where mbv3c always does.
    """

    open: Open
    module: str
    package: str
    extra: str = ""

    @property
    def version(self) -> str:
        return metadata.version(self.package)


def _open_bundle(bundle: Path, x: Feed, threads: int, device: str) -> Run:
    """Open the library; TVM takes the number of threads from its environment."""
    from tvm import relax

    from mbv3c.execution.host import load_library, tensors

    opened = opened_device(device)
    library = load_library(bundle / LIBRARY)
    main = relax.VirtualMachine(library, opened)[entry_for(bundle, x)]
    given = tensors(x, opened)
    if device == "cpu":
        return lambda: main(*given)

    def run() -> None:
        main(*given)
        opened.sync()  # launches return at once

    return run


def opened_device(name: str) -> Any:
    """Return a device of TVM's, "cpu" or "opencl"; loads the OpenCL runtime for the latter.

    Raises:
        ToolError: there is no OpenCL device.
    """
    import tvm

    if name == "opencl":
        load_runtime()
        device_info()
    return tvm.device(name)


def _open_onnxruntime(bundle: Path, x: Feed, threads: int, device: str) -> Run:
    return open_onnxruntime(_model(bundle), arrays_of(x), threads)


def _open_openvino(bundle: Path, x: Feed, threads: int, device: str) -> Run:
    """Open the model for latency, and in fp32: by itself OpenVINO may choose bf16."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(_model(bundle)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer(list(arrays_of(x)), share_inputs=True, share_outputs=True)


def _model(bundle: Path) -> Path:
    quantized = bundle / QUANTIZED
    return quantized if quantized.exists() else bundle / MODEL


BUNDLE = "bundle"
CONTENDERS = {
    BUNDLE: Contender(_open_bundle, "tvm", "apache-tvm"),
    ONNXRUNTIME: Contender(_open_onnxruntime, "onnxruntime", "onnxruntime"),
    OPENVINO: Contender(_open_openvino, "openvino", "openvino", "bench"),
}
OTHERS = tuple(name for name in CONTENDERS if name != BUNDLE)


def find_contender(name: str) -> Contender:
    """Look a runtime up that a bundle can be compared with.

    Raises:
        UsageError: it is unknown, or not installed.
    """
    check_other(name)
    contender = CONTENDERS[name]
    if find_spec(contender.module) is None:
        how = f"pip install {contender.package}"
        if contender.extra:
            how = install_extra(contender.extra)
        raise UsageError(f"{name} is not installed; install it with `{how}`")
    return contender


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


def _measuring(mode: str, bundle: Path, threads: int, device: str) -> Measure:
    x = load_feed(bundle / GOLDEN_INPUT)
    if mode in (PROFILE, CONTEST):
        return _profiled(bundle, x, device, storing=mode == CONTEST)
    run = CONTENDERS[mode].open(bundle, x, threads, device)
    return lambda runs: [_timed(run) for _ in range(runs)]


def _timed(run: Run) -> float:
    begin = perf_counter_ns()
    run()
    return (perf_counter_ns() - begin) / 1e6


def _profiled(bundle: Path, x: Any, name: str, *, storing: bool) -> Measure:
    from tvm import relax

    from mbv3c.execution.host import arrays, load_library, tensors

    device = opened_device(name)
    library = load_library(bundle / LIBRARY)
    machine = relax.VirtualMachine(library, device)
    entry, given = entry_for(bundle, x), tensors(x, device)

    if storing:
        outputs: list[Any] = arrays(machine[entry](*given))
        np.savez(bundle / OUTPUTS, **{f"{i}": output for i, output in enumerate(outputs)})

    by_call = _by_stopwatch if platform.system() == "Linux" else _by_instrument
    timed = by_call(device, lambda instrument: run_watched(machine, entry, instrument, given))

    def run_on_gpu() -> "list[Call]":
        with profiled() as times:
            names = [name for name, _ in timed(1)[0]]
        return by_calls(names, times)

    if storing and name != "cpu":
        return lambda runs: [run_on_gpu() for _ in range(runs)]
    return timed


def _by_stopwatch(device: Any, run: Watched) -> Measure:
    """Time calls from within the process's native code, which leaves caches as they are."""
    import tvm

    from mbv3c.execution.timing.stopwatch import INSTRUMENT, by_rounds, read_times, stopwatch_here

    stopwatch = tvm.runtime.load_module(str(stopwatch_here()))
    begin, times = stopwatch["begin"], stopwatch["times"]
    begin(device)

    def some(runs: int) -> "list[list[Call]]":
        begin(device)
        for _ in range(runs):
            run(INSTRUMENT)
        return by_rounds(read_times(bytes(times())), runs)

    def timed(runs: int) -> "list[list[Call]]":
        blocks = [some(min(_AT_ONCE, runs - at)) for at in range(0, runs, _AT_ONCE)]
        return [calls for block in blocks for calls in block]

    return timed


def _by_instrument(device: Any, run: Watched) -> Measure:
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

    def once() -> "list[Call]":
        calls.clear()
        run(instrument)
        return list(calls)

    return lambda runs: [once() for _ in range(runs)]


if __name__ == "__main__":
    main(*sys.argv[1:])
