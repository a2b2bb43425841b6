"""Where the time, or the instructions, of one inference go: kernel by kernel."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY, Bundle
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.counting import Count, by_function, functions
from mbv3c.execution.emulator.cycles import ELSEWHERE, CycleEstimate, by_kernel
from mbv3c.execution.timing.latency import worker
from mbv3c.execution.timing.worker import PROFILE
from mbv3c.manifest import MANIFEST
from mbv3c.scratch import scratch_folder
from mbv3c.targets import backend_for
from mbv3c.targets.backend import Call


@dataclass(frozen=True)
class Rebuilt:
    """A library with its symbol table.

    Attributes:
        folder: a folder with it, the golden files and the bundle's manifest.
        calls: kernels of the library in the order in which they run.
    """

    folder: Path
    calls: tuple[Call, ...]


@contextmanager
def rebuild(bundle: Bundle) -> Iterator[Rebuilt]:
    """Compile the bundle's model again, for its target, into a folder that goes away after."""
    with scratch_folder("bench") as place:
        folder = place / bundle.path.resolve().name
        golden = bundle.path / Path(GOLDEN_INPUT).parent
        shutil.copytree(golden, folder / golden.name)
        shutil.copy(bundle.path / MANIFEST, folder)
        backend = backend_for(bundle)
        yield Rebuilt(folder, backend.rebuild(bundle, folder))


@dataclass(frozen=True)
class TimedCall:
    """The time of one call of a kernel, in its place in the network.

    Attributes:
        kernel: name of the function in the library.
        kind: which module of `schedules` wrote it.
        nodes: names of the ONNX nodes whose work it does.
        madds: multiply-adds.
        us: microseconds, the median over the runs.
        share: share of the sum over all kernels.
        gflops: two operations per multiply-add.
    """

    kernel: str
    kind: str
    nodes: tuple[str, ...]
    madds: int
    us: float
    share: float
    gflops: float


@dataclass(frozen=True)
class CountedKernel:
    """The executed instructions of a kernel, all its calls together.

    Attributes:
        kernel: name of the function; "elsewhere" is TVM's runtime and the C library.
        kind: which module of `schedules` wrote it.
        calls: how often one inference calls it.
        nodes: names of the ONNX nodes whose work it does.
        madds: multiply-adds of all calls.
        instructions: instructions executed in all calls.
        share: share of the instructions of the inference.
        madds_per_instruction: NEON can do 4 in fp32 and 8 in fp16 if it does
            nothing else.
        estimated_cycles: estimated cycles of all calls; None where nothing estimates them.
    """

    kernel: str
    kind: str
    calls: int
    nodes: tuple[str, ...]
    madds: int
    instructions: int
    share: float
    madds_per_instruction: float
    estimated_cycles: int | None = None


def profile_time(
    rebuilt: Rebuilt, cpus: Sequence[int], runs: int, device: str = "cpu"
) -> list[TimedCall]:
    """Time every call within whole inferences, so that caches are as they are in one.

    What calls the kernels calls the stopwatch before and after each call, which costs some ten
    nanoseconds on Linux, and elsewhere a microsecond.
    """
    with worker(PROFILE, rebuilt.folder, cpus, device) as profiled:
        measured: list[list[tuple[str, float]]] = profiled.measure(runs)
    return timed_calls(rebuilt.calls, measured)


def timed_calls(
    calls: Sequence[Call], runs: Sequence[Sequence[tuple[str, float]]]
) -> list[TimedCall]:
    """Match the calls of several runs, names and microseconds, with the plan."""
    names = [call.kernel for call in calls]
    known = set(names)
    columns = []
    for run in runs:
        timed = [(name, us) for name, us in run if name in known]
        if [name for name, _ in timed] != names:
            raise ToolError("the library called other kernels than the plan has")
        columns.append([us for _, us in timed])
    times = [median(column) for column in zip(*columns, strict=True)]
    total = sum(times)
    return [
        TimedCall(
            call.kernel,
            call.step.kind,
            call.step.nodes,
            call.step.madds,
            us,
            us / total,
            2 * call.step.madds / us / 1e3,
        )
        for call, us in zip(calls, times, strict=True)
    ]


def profile_count(
    rebuilt: Rebuilt, counted: Count, estimated: CycleEstimate | None
) -> list[CountedKernel]:
    """Give every kernel the instructions of its functions, in the order of the first calls."""
    library = functions(rebuilt.folder / LIBRARY)
    cycles = None if estimated is None else estimated.by_function(library)
    return counted_kernels(rebuilt.calls, by_function(counted, library), cycles)


def counted_kernels(
    calls: Sequence[Call], counts: Mapping[str, int], cycles: Mapping[str, int] | None = None
) -> list[CountedKernel]:
    """Match instructions and, where there are any, estimated cycles by symbol with the plan."""
    known = {call.kernel for call in calls}

    def placed(numbers: Mapping[str, int]) -> Counter[str]:
        sums: Counter[str] = Counter()
        for name, number in by_kernel(numbers).items():
            # In a C library, a part that cores share has the kernel's name and a number.
            whole = name if name in known else name.rpartition("_")[0]
            sums[whole if whole in known else ELSEWHERE] += number
        return sums

    sums, estimated = placed(counts), placed(cycles) if cycles is not None else None
    total = sums.total()
    rows = []
    for kernel in [*dict.fromkeys(call.kernel for call in calls), ELSEWHERE]:
        steps = [call.step for call in calls if call.kernel == kernel]
        madds, instructions = sum(step.madds for step in steps), sums[kernel]
        rows.append(
            CountedKernel(
                kernel,
                steps[0].kind if steps else ELSEWHERE,
                len(steps),
                tuple(node for step in steps for node in step.nodes),
                madds,
                instructions,
                instructions / total,
                madds / instructions if instructions else 0.0,
                None if estimated is None else estimated[kernel],
            )
        )
    return rows
