"""Measure a bundle on what is at hand: time where its library runs natively, else instructions."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mbv3c.bundle import Bundle
from mbv3c.errors import UsageError
from mbv3c.execution.emulator.counting import count_bundle
from mbv3c.execution.emulator.cycles import Estimator, estimate
from mbv3c.execution.emulator.runner import EmulatedRunner
from mbv3c.execution.host import LibraryRunner
from mbv3c.execution.runners import CountingRunner, Runnable
from mbv3c.execution.timing.latency import (
    Ratio,
    Times,
    choose_cpus,
    interleave,
    processor_name,
    ratio,
    times,
)
from mbv3c.execution.timing.worker import BUNDLE, CONTENDERS, OTHERS, find_contender
from mbv3c.feeds import shape_text
from mbv3c.parity.gate.baseline import INSTRUCTIONS, TIME
from mbv3c.parity.golden import read_golden
from mbv3c.progress import Progress
from mbv3c.speed.profile import (
    CountedKernel,
    TimedCall,
    counted_kernels,
    profile_count,
    profile_time,
    rebuild,
)
from mbv3c.targets import backend_for
from mbv3c.targets.backend import Call

DEFAULT_RUNS = 200


@dataclass(frozen=True)
class BenchRequest:
    """What the user asked for; None where nothing was said.

    Attributes:
        against: the other runtime.
        threads: number of threads of each side.
        runs: timed inferences of each side.
        profile: whether to go kernel by kernel.
    """

    against: str | None = None
    threads: int | None = None
    runs: int | None = None
    profile: bool = False


@dataclass(frozen=True)
class Latency:
    """Time on this machine, beside another runtime.

    Attributes:
        against: name of the other runtime.
        ours, theirs: the times.
        ratio: ours over theirs.
        runs: timed inferences of each side.
        interruptions: how often the system gave their processors to other processes.
        undisturbed: whether that happened seldom and the blocks agree.
        threads: number of threads of each side.
        cpu: the processor's name.
        versions: versions of the software on each side.
        kernels: every call in order; None without a profile.
    """

    against: str
    ours: Times
    theirs: Times
    ratio: Ratio
    runs: int
    interruptions: int
    undisturbed: bool
    threads: int
    cpu: str
    versions: dict[str, str]
    kernels: list[TimedCall] | None = None


@dataclass(frozen=True)
class Cycles:
    """Estimated cycles of one inference on one core, from the instructions that were counted.

    Attributes:
        total: cycles of all kernels, and of what runs elsewhere.
        model: the estimator, and its model of the processor.
        left_out: executed instructions that the model does not have.
    """

    total: int
    model: str
    left_out: int


@dataclass(frozen=True)
class Instructions:
    """Executed instructions of one inference on one emulated core.

    Attributes:
        cpu: the emulated processor.
        executed: number of all instructions.
        classes: number of instructions by class; None where nothing tells them apart.
        versions: versions of what made and ran the library.
        kernels: every kernel; None without a profile.
        cycles: estimated cycles; None without a profile, or if nothing estimates them.
    """

    cpu: str
    executed: int
    classes: dict[str, int] | None
    versions: dict[str, str]
    kernels: list[CountedKernel] | None = None
    cycles: Cycles | None = None


Measured = Latency | Instructions


def measure(bundle: Bundle, request: BenchRequest, progress: Progress) -> Measured:
    """Measure a bundle.

    Raises:
        UsageError: the request does not fit the bundle or this machine.
        ToolError: nothing here runs it, or running fails.
    """
    backend = backend_for(bundle)
    backend.check_bench(bundle)
    with backend.open(bundle, progress, stand_in=False) as opened:
        if isinstance(opened.runner, EmulatedRunner):
            return _count(bundle, opened.runner, opened.estimator, request, progress)
        if isinstance(opened.runner, CountingRunner):
            return _count_alone(bundle, opened, opened.runner, request, progress)
        assert isinstance(opened.runner, LibraryRunner)
        cores, device = backend.footprint(bundle).cores, opened.runner.device
        measured = _time(bundle, cores, device, request, progress)
        if device == "opencl":  # which may be a CPU, too
            return replace(measured, versions=measured.versions | {"on": opened.ran_on})
        return measured


def measure_shapes(
    bundle: Bundle, request: BenchRequest, progress: Progress
) -> dict[str, Measured]:
    """Measure a bundle for every shape of its inputs; the first comes first.

    Raises:
        UsageError: the request does not fit the bundle or this machine.
        ToolError: nothing here runs it, or running fails.
    """
    with backend_for(bundle).programs(bundle) as programs:
        return {
            shape_text(record.shape for record in program.manifest.taken): measure(
                program, request, progress
            )
            for program in programs
        }


def _count(
    bundle: Bundle,
    runner: EmulatedRunner,
    estimator: Estimator | None,
    request: BenchRequest,
    progress: Progress,
) -> Instructions:
    _check_counting(request, runner.description)
    progress(f"counting instructions on the {runner.description}")
    counted = count_bundle(runner.kit, runner.cpu, bundle.path)
    kernels, cycles = None, None
    if request.profile:
        progress("building the library again, with its symbols")
        with rebuild(bundle) as rebuilt:
            progress("counting instructions kernel by kernel")
            named = count_bundle(runner.kit, runner.cpu, rebuilt.folder)
            estimated = None
            if estimator is not None:
                progress(f"estimating cycles by {estimator.description}")
                estimated = estimate(estimator, named.blocks)
            kernels = profile_count(rebuilt, named, estimated)
        if estimator is not None and estimated is not None:
            total = sum(kernel.estimated_cycles or 0 for kernel in kernels)
            cycles = Cycles(total, estimator.description, estimated.left_out)
        if named.instructions != counted.instructions:
            progress(
                f"the library built again executes {named.instructions:,} instructions: another "
                "version made the bundle, and the profile is not exactly that of its library"
            )
    versions = _versions(BUNDLE)
    return Instructions(
        runner.cpu, counted.instructions, counted.classes(), versions, kernels, cycles
    )


def _count_alone(
    bundle: Bundle,
    opened: Runnable,
    runner: CountingRunner,
    request: BenchRequest,
    progress: Progress,
) -> Instructions:
    """Count a library that needs no runtime; its functions are there without building it again."""
    _check_counting(request, runner.description)
    progress(f"counting instructions on the {runner.description}")
    counted = runner.count(read_golden(bundle).input)
    kernels = None
    if request.profile:
        calls = [Call(record.kernel, record) for record in opened.kernels]
        kernels = counted_kernels(calls, counted.by_function)
    return Instructions(runner.cpu, counted.instructions, None, _versions(BUNDLE), kernels)


def _check_counting(request: BenchRequest, on: str) -> None:
    given = {"--against": request.against, "--threads": request.threads, "--runs": request.runs}
    refused = [option for option, value in given.items() if value is not None]
    if refused:
        raise UsageError(
            f"{', '.join(refused)} cannot be used here: of a library on the {on} only executed "
            "instructions can be told, and not time; benchmarks/ counts those of other runtimes"
        )


def _time(
    bundle: Bundle, cores: int, device: str, request: BenchRequest, progress: Progress
) -> Latency:
    against = request.against or OTHERS[0]
    threads = cores if request.threads is None else request.threads
    runs = DEFAULT_RUNS if request.runs is None else request.runs
    find_contender(against)
    if runs < 1:
        raise UsageError(f"--runs {runs} is not possible; choose at least 1")
    if threads > cores:
        raise UsageError(
            f"--threads {threads} is not possible: the bundle was compiled for {cores}; "
            f"compile it with --cores {threads}"
        )
    cpus = choose_cpus(threads)
    progress(f"timing it beside {against}: {runs} runs each, in turns")
    turns = interleave((BUNDLE, against), bundle.path, cpus, runs, device)
    ours, theirs = turns.blocks[BUNDLE], turns.blocks[against]
    compared = ratio(ours, theirs)
    kernels = None
    if request.profile:
        progress("building the library again, to see its kernels")
        with rebuild(bundle) as rebuilt:
            progress("timing it kernel by kernel")
            kernels = profile_time(rebuilt, cpus, runs, device)
    return Latency(
        against,
        times(ours),
        times(theirs),
        compared,
        runs,
        turns.interruptions,
        turns.undisturbed and compared.steady,
        threads,
        processor_name(),
        _versions(BUNDLE, against),
        kernels,
    )


def _versions(*names: str) -> dict[str, str]:
    return {CONTENDERS[name].package: CONTENDERS[name].version for name in names}


def to_json(measured: Measured) -> dict[str, Any]:
    """Return the documented keys; what was not measured is null."""
    kernels = None if measured.kernels is None else [asdict(kernel) for kernel in measured.kernels]
    keys = (
        *("median_ms", "min_ms", "against", "against_median_ms", "against_min_ms"),
        *("ratio", "ratio_quartiles", "runs", "interruptions", "undisturbed", "threads"),
        *("instructions", "classes", "estimated_cycles"),
    )
    document: dict[str, Any] = dict.fromkeys(keys)
    if isinstance(measured, Latency):
        own = ("against", "runs", "interruptions", "undisturbed", "threads")
        theirs = {f"against_{key}": value for key, value in asdict(measured.theirs).items()}
        document |= {key: getattr(measured, key) for key in own} | asdict(measured.ours) | theirs
        document["ratio"] = measured.ratio.median
        document["ratio_quartiles"] = list(measured.ratio.quartiles)
    else:
        document |= {
            "threads": 1,
            "instructions": measured.executed,
            "classes": measured.classes,
            "estimated_cycles": asdict(measured.cycles) if measured.cycles else None,
        }
    emulated = isinstance(measured, Instructions)
    return {
        **document,
        "cpu": measured.cpu,
        "emulated": emulated,
        "versions": measured.versions,
        "kernels": kernels,
    }


def speed_of(bundle: Bundle, progress: Progress) -> dict[str, Any]:
    """Return how fast a bundle is, in what can be told here, as `kind` and `value`.

    Time is a ratio to that of onnxruntime in one run; an emulated library has its executed
    instructions, and an NPU the cycles that vela estimated.

    Raises:
        ToolError: nothing here runs the bundle.
    """
    backend = backend_for(bundle)
    known = backend.known_speed(bundle)
    if known is not None:
        return known
    measured = measure(bundle, BenchRequest(), progress)
    if isinstance(measured, Instructions):
        return {"kind": INSTRUCTIONS, "value": measured.executed, "cpu": measured.cpu}
    return {
        "kind": TIME,
        "value": measured.ratio.median,
        "quartiles": list(measured.ratio.quartiles),
        "median_ms": measured.ours.median_ms,
        "against": measured.against,
        "against_version": measured.versions[CONTENDERS[measured.against].package],
        "against_median_ms": measured.theirs.median_ms,
        "threads": measured.threads,
        "on": measured.versions.get("on"),
        "undisturbed": measured.undisturbed,
        "cpu": measured.cpu,
    }
