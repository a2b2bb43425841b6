"""What a bundle's model gives once more: its calls of kernels, and their constants."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from mbv3c.bundle import Bundle, read_bundled
from mbv3c.c_library.check import has_constants
from mbv3c.c_library.driver import constant_block
from mbv3c.c_library.run import CLibrary
from mbv3c.errors import BundleError
from mbv3c.execution.executable import read_calls
from mbv3c.job import Job
from mbv3c.lowering.describe import KernelRecord, kernels_of, memory_of
from mbv3c.lowering.lower import Lowered
from mbv3c.manifest import MANIFEST
from mbv3c.parity.constants import ConstantFault, ConstantsParity, check_constants
from mbv3c.prepare import Prepared, rewritten_for
from mbv3c.targets.library.building import Lowering, job_of, lower_library, target_of
from mbv3c.targets.library.manifest import LibraryManifest, manifest_of
from mbv3c.targets.library.target import NATIVE
from mbv3c.tuning.choices import Recorded, recorded
from mbv3c.tuning.database import key_of


@dataclass(frozen=True)
class Again:
    """A bundle's model, rewritten and lowered as it was to build the library.

    Attributes:
        graph: the rewritten graph.
        lowered: its kernels and constants.
    """

    graph: onnx.ModelProto
    lowered: Lowered


def lowered_again(backend: Lowering, bundle: Bundle, known: Prepared | None = None) -> Again:
    """Rewrite and lower a bundle's model, without compiling its kernels.

    `known` is the prepared model where the bundle was just compiled, which saves the work.

    Raises:
        Mbv3cError: the model cannot be lowered.
    """
    if known is not None and known.lowered is not None:
        return Again(known.graph, known.lowered)
    manifest = manifest_of(bundle)
    job = compiled_for(bundle, job_of(backend, bundle))
    graph, _ = rewritten_for(read_bundled(bundle.compiled_model), job.precision, job.dense_weights)
    lowered = lower_library(backend, graph, job)
    written = _as_written(lowered, manifest)
    if written is not None:
        lowered = lower_library(backend, graph, replace(job, choices=written))
    return Again(graph, lowered)


def compiled_for(bundle: Bundle, job: Job) -> Job:
    """Return a job for the processor that a bundle was compiled for, also if that is `native`."""
    target = target_of(job)
    if target.cpu != NATIVE:
        return job
    manifest = manifest_of(bundle)
    own, arch = manifest.target, manifest.target.triple.split("-")[0]
    known = replace(target, triple=own.triple, cpu=own.cpu, arch=arch, without=manifest.without)
    return replace(job, target=known)


def _as_written(lowered: Lowered, manifest: LibraryManifest) -> Recorded | None:
    """Return the knobs that a manifest lists where others were chosen here; None for nowhere.

    The usual rules go by the sizes of caches, which differ from machine to machine.
    """
    steps, kernels = lowered.plan.steps, manifest.kernels
    ours = [(step.kind, step.nodes) for step in steps]
    if ours != [(kernel.kind, kernel.nodes) for kernel in kernels]:
        return None
    knobs = {
        key_of(step.kind, step.shape): kernel.knobs
        for step, kernel in zip(steps, kernels, strict=True)
        if step.shape is not None and not step.operator and step.knobs != kernel.knobs
    }
    if not knobs:
        return None
    listed = recorded(manifest.tuned_kernels)
    return replace(listed, tuned=listed.tuned | knobs)


def constants_of(bundle: Bundle, again: Again, entry: str) -> ConstantsParity:
    """Compare the constants of a function of a bundle's library with those of its model.

    What the manifest says of the kernels must be what the model gives, too: it says what `verify`
    compares.

    Raises:
        BundleError: the library is damaged, or the manifest describes other kernels.
    """
    manifest = manifest_of(bundle)
    check_described(bundle, again)
    linked = read_calls(bundle.library, entry)
    packed = [step.constants for step in again.lowered.plan.steps]
    return check_constants(manifest.kernels, packed, linked)


def archived_constants(
    bundle: Bundle, again: Again, library: CLibrary, alignment: int
) -> ConstantsParity:
    """Compare the constants of a C library with those of its model, byte by byte.

    Raises:
        BundleError: the library is damaged, or the manifest describes other kernels.
    """
    check_described(bundle, again)
    steps = again.lowered.plan.steps
    count, size = sum(len(s.constants) for s in steps), sum(s.constant_bytes for s in steps)
    if has_constants(library, constant_block(again.lowered, alignment).data):
        return ConstantsParity(count, size, ())
    text = f"{library.archive.name} has other constants than its model gives"
    return ConstantsParity(count, size, (ConstantFault("", (), 0, 0, 0, text),))


def check_described(bundle: Bundle, again: Again) -> None:
    """Make sure that a manifest describes the kernels that its model gives, and their memory.

    Raises:
        BundleError: it describes others.
    """
    told, made = manifest_of(bundle), again.lowered
    if (_shown(told.kernels), told.memory) != (_shown(kernels_of(made)), memory_of(made)):
        raise BundleError(
            f"{bundle.path / MANIFEST} does not describe the kernels that its model gives; "
            "compile it again with this version"
        )


def _shown(kernels: Sequence[KernelRecord]) -> list[object]:
    """Return what decides about comparisons; names count on over several shapes of the inputs."""
    return [(one.kind, tuple(one.nodes), one.arguments) for one in kernels]
