"""Build the library of a bundle, or one that equals it, and tune its kernels."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import onnx

from mbv3c.bundle import LIBRARY, Bundle, read_bundled
from mbv3c.c_library.record import CLibraryRecord, CSourceRecord
from mbv3c.ends.ends import ends_of
from mbv3c.errors import ModelError, UnknownOperatorsError, UsageError
from mbv3c.execution.device.machine import DeviceNeeds
from mbv3c.execution.native.kernels import compiled_anew
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.lowering.qdq import has_pairs, with_stored_values
from mbv3c.lowering.unchecked import without_checks
from mbv3c.nearest import among
from mbv3c.passes import PassReport
from mbv3c.passes.leftovers import why_left
from mbv3c.prepare import check_keep_float, prepare, rewritten_for
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.target import Target
from mbv3c.targets.library.contest_jobs import holder
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.target import LibraryTarget, resolve
from mbv3c.targets.wing import Wing
from mbv3c.tuning.choices import (
    MeasuredChoices,
    MeasuredOn,
    looked_in,
    measured,
    recorded,
    shipped,
)
from mbv3c.tuning.database import Context, Database, Record, folder_for
from mbv3c.tuning.device_meter import one_at_a_time, opened
from mbv3c.tuning.meters import CountingMeter, NetworkMeter
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.request import TuneRequest, TuningDatabase
from mbv3c.tuning.session import Tunable, TunedNetwork, status_lines, tune_network
from mbv3c.tuning.tuner import Event

if TYPE_CHECKING:
    from mbv3c.targets.library.backend import LibraryBackend


class Lowering(Protocol):
    """The part of a backend that makes kernels of a graph."""

    @property
    def wing(self) -> Wing: ...

    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        """Lower a rewritten graph, as `LibraryBackend.lower_graph` says."""


@dataclass(frozen=True)
class Library:
    """A library that was built.

    Attributes:
        lowered: the network that it computes.
        sources: the text of every kernel of a GPU, by the kernel's name in the library.
        own_weight_bytes: the bytes of packed weights that no shape of the inputs before has.
        c_library: the C library that was built beside it; None without.
        c_source: the C library of C11 that was written beside it; None without.
    """

    lowered: Lowered
    sources: dict[str, str]
    own_weight_bytes: int = 0
    c_library: CLibraryRecord | None = None
    c_source: CSourceRecord | None = None


def lower_library(
    backend: Lowering, graph: onnx.ModelProto, job: Job, reports: Sequence[PassReport] = ()
) -> Lowered:
    """Lower a rewritten graph to kernels.

    Raises:
        UsageError: a pattern of `job.keep_float` matches no node.
        ModelError: TVM lacks operators of the graph. What the passes that could have removed them
            say in `reports` is part of the message.
    """
    check_keep_float(graph, job.keep_float)
    if not job.precision.quantized and has_pairs(graph):
        graph = with_stored_values(graph)
    try:
        return backend.lower_graph(graph, replace(job, target=resolve(target_of(job))))
    except UnknownOperatorsError as error:
        reasons = why_left(graph, error.positions, reports)
        raise ModelError("\n  ".join([str(error), *reasons])) from error


def build_library(
    backend: "LibraryBackend",
    graph: onnx.ModelProto,
    job: Job,
    output: Path,
    *,
    symbols: bool = False,
) -> Library:
    """Turn a rewritten graph into a shared library, with its symbol table on demand.

    Raises:
        Mbv3cError: as `lower_library` says, or the linker failed.
    """
    lowered = lower_library(backend, graph, job)
    target = resolve(target_of(job))
    return Library(lowered, backend.build_module(lowered.module, target, output, symbols=symbols))


def target_of(job: Job) -> LibraryTarget:
    """Return the target of a job that makes a library, with what its precision needs."""
    assert isinstance(job.target, LibraryTarget)
    without = tuple(name for name in job.target.without if name not in job.precision.features)
    return replace(job.target, without=without)


def job_of(backend: Lowering, bundle: Bundle) -> Job:
    """Return the job that a bundle's manifest records, but for how it was quantized."""
    manifest = manifest_of(bundle)
    family, _, device = manifest.target.name.partition(":")
    target = backend.wing.find(family, device)
    assert isinstance(target, LibraryTarget)
    return Job(
        replace(target, cores=manifest.target.cores),
        bundle.precision,
        manifest.keep_float,
        recorded(manifest.tuned_kernels),
        ends=ends_of(manifest.model.metadata),
        dense_weights=manifest.dense_weights,
    )


@contextmanager
def built_again(
    backend: "LibraryBackend", bundle: Bundle, job: Job
) -> Iterator[tuple[Path, Library]]:
    """Build a bundle's model as `job` says, into a folder that goes away after."""
    model = read_bundled(bundle.compiled_model)
    with scratch_folder("host") as folder:
        graph, _ = rewritten_for(model, job.precision, job.dense_weights)
        with without_checks(), compiled_anew():
            library = build_library(backend, graph, job, folder / LIBRARY)
        yield folder, library


def measured_on(backend: "LibraryBackend", target: LibraryTarget) -> MeasuredOn:
    """Return under which device and version of the kernels measurements are kept."""
    return MeasuredOn(backend.device_of(target), backend.kernels_version)


def best_known(
    backend: "LibraryBackend",
    target: LibraryTarget,
    roots: Sequence[Path],
    new: Sequence[Record] = (),
) -> MeasuredChoices:
    """Return the best choices that are known for a target.

    For this machine, kernels that were not measured on its very core are as they were on others
    with the same instructions.

    Raises:
        DatabaseError: a database is damaged.
    """
    portable = backend.portable(target)
    wider = None
    if portable is not None:
        wider = measured_on(backend, portable[0]), portable[1]
    return measured(measured_on(backend, target), roots, new, wider)


def measured_choices(
    backend: "LibraryBackend", target: Target, roots: Sequence[Path], progress: Progress
) -> Choices:
    """Return what was measured for a target, and say what there is and is not used.

    Raises:
        DatabaseError: a database is damaged.
    """
    if not roots:
        return NO_CHOICES
    assert isinstance(target, LibraryTarget)
    known = best_known(backend, target, roots)
    portable = backend.portable(target)
    wider = [measured_on(backend, portable[0]).device] if portable is not None else []
    progress(looked_in(roots, [measured_on(backend, target).device, *wider]))
    for warning in known.warnings:
        progress(f"warning: {warning}")
    return known


def database_of(backend: "LibraryBackend", root: Path, target: Target) -> TuningDatabase:
    """Return the tuning database of a target below a folder of databases."""
    assert isinstance(target, LibraryTarget)
    origin = measured_on(backend, target)
    records = Database(folder_for(root, origin.device))

    def is_current(context: Context) -> bool:
        return context == origin.context(context.unit)

    return TuningDatabase(records, is_current, lambda: status_lines(records))


@dataclass(frozen=True)
class CostModel:
    """What estimates every choice, for a target that nothing here measures.

    Attributes:
        estimate: takes the network, lowered with the default choices, and the target's
            database.
    """

    estimate: Callable[[Lowered, Database], TunedNetwork]


RPC = "rpc"
METERS = ("local", "emulated", "estimated", RPC)

_TRIALS = 400  # where nobody says when to stop


def check_tuning(backend: "LibraryBackend", job: Job, request: TuneRequest) -> None:
    """Make sure, before any work, that a request makes sense.

    Raises:
        UsageError: it does not.
    """
    if request.sram_bytes is not None:
        raise UsageError("--sram is for --target npu only")
    if (request.trials is not None and request.trials < 1) or (
        request.seconds is not None and request.seconds <= 0
    ):
        raise UsageError("--trials and --minutes must be above 0")
    if request.patience < 1:
        raise UsageError(f"--patience {request.patience} is not possible; choose at least 1")
    name, place = request.runner, request.place
    if name is not None and name not in METERS:
        raise UsageError(f"unknown runner {name!r}{among(name, METERS)}")
    if name == RPC and place is None:
        raise UsageError("--runner rpc needs a device: give --device, or --tracker and --key")
    if place is not None and name not in (None, RPC):
        raise UsageError(f"--runner {name} measures here: leave --device or --tracker out")
    backend.check_precision(job.target, job.precision)
    if request.in_jobs:
        check_in_jobs(backend, target_of(job), request)


def tune(
    backend: "LibraryBackend",
    model: onnx.ModelProto,
    job: Job,
    request: TuneRequest,
    report: Callable[[Event], None],
) -> TunedNetwork:
    """Tune the kernels of a model, as `Backend.tune` says.

    Raises:
        UsageError: the meter does not fit the target, or a pattern matches no node.
        ToolError: the emulator has not been fetched, or there is no OpenCL device.
        Mbv3cError: as `tune_network` says.
    """
    trials = request.trials
    if trials is None and request.seconds is None:
        trials = _TRIALS
    budget = Budget(trials, request.seconds, request.patience)
    target = resolve(target_of(job))
    tell_step = lambda text: report({"event": "step", "text": text})  # noqa: E731
    prepared = prepare(model, job, tell_step, backend.on_device(job))
    check_keep_float(prepared.graph, job.keep_float)

    def lower(choices: Choices) -> Lowered:
        return backend.lower_graph(prepared.graph, replace(job, target=target, choices=choices))

    def known(new: Sequence[Record]) -> Choices:
        return best_known(backend, target_of(job), (request.root, shipped()), new)

    database = Database(folder_for(request.root, measured_on(backend, target_of(job)).device))
    tell = one_at_a_time(report)
    with _meter(backend, target_of(job), request, tell) as meter:
        if isinstance(meter, CostModel):
            return meter.estimate(lower(NO_CHOICES), database)
        kernels = backend.kernels(target)
        network = Tunable(kernels, lower, known)
        with holder(target, kernels, meter, request, tell) as elsewhere:
            return tune_network(network, database, meter, budget, request.seed, tell, elsewhere)


@contextmanager
def _meter(
    backend: "LibraryBackend",
    target: LibraryTarget,
    request: TuneRequest,
    report: Callable[[Event], None],
) -> Iterator[NetworkMeter | CostModel]:
    """Open what measures: devices at a place, or what is here."""
    if request.place is None:
        yield backend.meter(target, request.runner)
        return
    own = resolve(target)
    needs = DeviceNeeds(own.name, own.triple, own.cpu, backend.device_needs(own))
    with opened(needs, request.place, report) as devices:
        yield devices


def check_in_jobs(backend: "LibraryBackend", target: LibraryTarget, request: TuneRequest) -> None:
    """Make sure that what measures may do so beside other work, on any machine.

    Raises:
        UsageError: it times, or has nothing to do that takes long.
        ToolError: what counts is not here.
    """
    leave = "leave --cluster and --jobs out"
    if request.place is not None:
        raise UsageError(
            f"--cluster and --jobs are for tuning that counts or estimates; boards share the work "
            f"by --tracker: {leave}"
        )
    meter = backend.meter(target, request.runner)
    if isinstance(meter, CostModel):
        raise UsageError(f"the cost model of {target.name} answers at once, here: {leave}")
    if not isinstance(meter, CountingMeter):
        raise UsageError(
            f"--cluster and --jobs are for tuning that counts or estimates; {target.name} is "
            f"timed, here, with nothing beside it: {leave}"
        )


def refuse_meter(target: LibraryTarget, name: str, known: Sequence[str]) -> Any:
    """Say that a meter does not fit a target.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"--runner {name} is not for {target.name}; known for it: {', '.join(known)}")
