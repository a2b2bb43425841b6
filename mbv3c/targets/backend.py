"""What a backend is: everything that differs between devices once something is to be compiled.

A backend is one object, which its module names `BACKEND`; its wing says which devices it is for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from mbv3c.bundle import Bundle, Golden
from mbv3c.costs.asking import Coster
from mbv3c.ends.ends import ends_of
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Feed
from mbv3c.job import Job
from mbv3c.lowering.describe import KernelRecord
from mbv3c.lowering.plan import NO_CHOICES, Choices, Step
from mbv3c.manifest import Manifest
from mbv3c.parity.compare import compare
from mbv3c.parity.gate.baseline import Footprint
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.ladder.climb import BackendStages
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.parity.verdict import Verdict
from mbv3c.precision import Precision
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice
from mbv3c.quantization.loss import Loss
from mbv3c.target import Target
from mbv3c.targets.evidence import Evidence
from mbv3c.targets.reference import reference_of
from mbv3c.targets.wing import Wing
from mbv3c.tuning.request import TuneRequest, Tuning, TuningDatabase


@dataclass(frozen=True)
class Built:
    """What a backend built into the folder of a bundle.

    Attributes:
        details: what the manifest says of the build, in the backend's own type.
        golden: an input and its outputs, for boards that check themselves.
        alternatives: what other choices would cost, in the backend's own type.
    """

    details: Any
    golden: Golden
    alternatives: Any = None


@dataclass(frozen=True)
class Compiled:
    """What `compile` made.

    Attributes:
        bundle: the bundle.
        verdict: the verdict; None if it was not asked to verify.
        alternatives: what others would cost, in the backend's own type.
        loss: how far int8 is from fp32 on calibration inputs; None where nothing was calibrated.
    """

    bundle: Bundle
    verdict: Verdict | None
    alternatives: Any = None
    loss: Loss | None = None


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: the name of the function in the library; equal kernels share a function.
        step: what it does in the plan.
    """

    kernel: str
    step: Step | KernelRecord


@dataclass(frozen=True)
class Description:
    """Something said twice: for people, and for programs.

    Attributes:
        lines: the text, line by line.
        document: the documented JSON form.
    """

    lines: Sequence[str]
    document: dict[str, Any]


class Backend(ABC):
    """What compiles for the devices of one or several families.

    Attributes:
        wing: the devices.
        manifest: the type of its bundles' manifests.
        program: the files in a bundle that the device runs.
        native: whether they are native code, which runs as the user does.
        tools: the packages whose versions its bundles record.
        needed: those of them that load the program where it runs.
        ladder_inputs: the number of inputs on the ladder; None for those of a parity check.
    """

    wing: Wing
    manifest: type[Manifest] = Manifest
    program: Sequence[str] = ()
    native: bool = True
    tools: Sequence[str] = ("onnx", "onnxruntime", "onnxsim")
    needed: Sequence[str] = ()
    ladder_inputs: int | None = None

    @property
    def built_in(self) -> Mapping[str, str]:
        """What the tools brought along that made the program: versions by name."""
        return {}

    # What is asked.
    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        """Turn the options that a user gave into the backend's own type.

        Args:
            target: the target; it comes back as the options change it.
            given: the backend's own options that have a value.
            explain: whether the user wants to know what other choices would cost.

        Raises:
            UsageError: a value makes no sense, or is not for this target.
        """
        return target, None

    def check_precision(self, target: Target, precision: Precision) -> None:
        """Make sure that a device computes in a precision.

        Raises:
            UsageError: it does not.
        """
        if precision not in self.wing.precisions:
            able = ", ".join(map(str, self.wing.precisions))
            raise UsageError(f"{target.name} does not compute in {precision}; it does in {able}")

    def check(self, job: Job, *, verify: bool) -> None:
        """Make sure, before any work, that a job can be done here, and verified if asked for.

        Raises:
            UsageError: an option does not go with the target.
            ToolError: something that it needs is not installed.
        """
        self.check_precision(job.target, job.precision)

    def check_model(self, model: onnx.ModelProto, job: Job) -> None:
        """Refuse, before it is rewritten, a model that no bundle can be made of.

        Raises:
            UsageError: the device does not take such inputs.
            ModelError: the device would wait for what it cannot compute.
        """

    def check_shapes(self, target: Target, count: int) -> None:
        """Make sure that one bundle may take so many shapes of the inputs.

        Raises:
            UsageError: the device's program takes one shape.
        """
        if count > 1:
            raise UsageError(
                f"a program for {target.name} takes inputs of one shape: compile a bundle for "
                "each, with --input-shape in the place of --input-shapes"
            )

    def job_of(self, bundle: Bundle) -> Job:
        """Return the job that a bundle was compiled for, as far as its manifest has it."""
        family, _, device = bundle.manifest.target.name.partition(":")
        target, ends = self.wing.find(family, device), ends_of(bundle.manifest.model.metadata)
        return Job(target, bundle.precision, bundle.manifest.keep_float, ends=ends)

    def choices(self, target: Target, roots: Sequence[Path], progress: Progress) -> Choices:
        """Return what was measured for a target in the tuning databases under some folders."""
        return NO_CHOICES

    # From a prepared model to a bundle.

    def on_device(self, job: Job) -> OnDevice | None:
        """Return what names the nodes that the device computes in integers; None for all nodes."""
        return None

    @abstractmethod
    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> Any:
        """Lower a prepared model, to the backend's own form.

        Raises:
            ModelError: the model has something that the device cannot compute.
        """

    @abstractmethod
    def build(self, prepared: Prepared, lowered: Any, job: Job, folder: Path) -> Built:
        """Build what was lowered into the folder of a bundle.

        Raises:
            ToolError: a tool fails.
        """

    def build_all(
        self, prepared: Sequence[Prepared], lowered: Sequence[Any], job: Job, folder: Path
    ) -> Sequence[Built]:
        """Build what was lowered for every shape of the inputs into the folder of one bundle.

        Raises:
            ToolError: a tool fails.
        """
        (only,), (program,) = prepared, lowered
        return [self.build(only, program, job, folder)]

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        """Add what the backend's manifests say to what all of them do."""
        return manifest

    def joined(self, manifests: Sequence[Manifest], built: Sequence[Built]) -> Manifest:
        """Make one manifest of those of all shapes of the inputs."""
        (only,) = manifests
        return only

    def programs(self, bundle: Bundle) -> AbstractContextManager[Sequence[Bundle]]:
        """Open a bundle as one for each shape of its inputs; the first is the bundle itself."""
        return nullcontext([bundle])

    # A bundle that runs.

    @abstractmethod
    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        *,
        stand_in: bool = True,
    ) -> AbstractContextManager[Runnable]:
        """Open what runs a bundle: on a device, here, or the closest thing to it.

        Args:
            bundle: the bundle.
            progress: function that is told what is being done.
            place: the device to run on; None to find what can run it here.
            stand_in: whether a program that only equals the bundle's own will do.

        Raises:
            UsageError: there is no way to run it.
            ToolError: what runs it is missing.
        """

    def verify(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        known: Prepared | None = None,
        inputs: list[Feed] | None = None,
    ) -> Verdict:
        """Check that a bundle computes what onnxruntime computes.

        `known` is the prepared model where the bundle was just compiled, which saves work.
        `inputs` are the user's own, instead of the seeded ones.

        Raises:
            Mbv3cError: the bundle cannot be run.
        """
        reference = reference_of(bundle, known, inputs)
        with self.open(bundle, progress, place) as opened:
            progress(f"running it on {opened.ran_on}")
            outputs = opened.runner.run(opened.folder, reference.inputs)
        return compare(
            outputs,
            reference.outputs,
            TOLERANCES[bundle.precision.name],
            ran_on=opened.ran_on,
            exact_program=opened.exact_program,
        )

    def blocks(
        self,
        bundle: Bundle,
        progress: Progress,
        inputs: list[Feed] | None = None,
    ) -> BlockErrors | str:
        """Run every block of a bundle by itself, or say why that is not possible.

        `inputs` are the user's own, instead of the seeded ones.

        Raises:
            Mbv3cError: the program fails.
        """
        return "Blocks were not run by themselves: nothing stops between the kernels here."

    def footprint(self, bundle: Bundle) -> Footprint:
        """Return what a bundle takes beside the bytes of its files."""
        return Footprint(1, {})

    @abstractmethod
    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> BackendStages:
        """Return the stages of compiling that are the backend's own, for `verify --ladder`.

        Raises:
            Mbv3cError: the device that is to run the bundle cannot be reached.
        """

    # How fast it is, and what would be faster.
    def known_speed(self, bundle: Bundle) -> dict[str, Any] | None:
        """Return the speed that a bundle's manifest has, as reports take it; None without."""
        return None

    def check_bench(self, bundle: Bundle) -> None:
        """Make sure that something here can time a bundle, or count its instructions.

        Raises:
            UsageError: nothing can.
        """

    def rebuild(self, bundle: Bundle, folder: Path) -> tuple[Call, ...]:
        """Compile a bundle's model again into `folder`, with symbols; return the calls in order.

        Raises:
            UsageError: a bundle of this backend has no kernels to go through one by one.
        """
        raise UsageError(f"{bundle.path} has no kernels that can be measured one by one")

    def database(self, root: Path, target: Target) -> TuningDatabase:
        """Return the tuning database of a target below a folder of databases.

        Raises:
            UsageError: nothing can be tuned for this target.
        """
        raise UsageError(f"there is nothing to tune for {target.name}")

    def check_tuning(self, job: Job, request: TuneRequest) -> None:
        """Make sure, before any work, that a request to tune makes sense.

        Raises:
            UsageError: it does not.
            ToolError: something that it needs is not installed.
        """
        self.database(request.root, job.target)

    def tune(
        self, model: onnx.ModelProto, job: Job, request: TuneRequest, report: Callable[[Any], None]
    ) -> Tuning:
        """Look for better choices for a model, and keep them in the database.

        Raises:
            Mbv3cError: nothing could be measured, or the database cannot be used.
        """
        raise UsageError(f"there is nothing to tune for {job.target.name}")

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        """Return what finds out how much networks cost on a target, layer by layer.

        With a `place` it is time on the device there.

        Raises:
            UsageError: nothing here does.
        """
        raise UsageError(
            f"nothing here tells what a layer costs on {target.name}; docs/costs.md lists those "
            "of which it is known"
        )

    # What is said of a result.

    def evidence(self, bundle: Bundle) -> Evidence:
        """Return what a bundle holds for reports."""
        return Evidence()

    def describe_compiled(self, compiled: Compiled, *, explain: bool) -> Description:
        """Say what `compile` made."""
        bundle, verdict = compiled.bundle, compiled.verdict
        name, parity = bundle.manifest.target.name, verdict.to_json() if verdict else None
        lines = [f"{bundle.path}: {name} {bundle.precision}"]
        lines += verdict.lines() if verdict else ["parity: not checked (--no-verify)"]
        document = {"bundle": str(bundle.path), "target": name, "parity": parity}
        return Description(lines, document)

    def describe_bundle(self, bundle: Bundle) -> Description:
        """Say what a bundle is."""
        manifest = bundle.manifest
        line = f"{bundle.path}: {manifest.model.name} for {manifest.target.name}"
        return Description([line], {"target": {"name": manifest.target.name}})
