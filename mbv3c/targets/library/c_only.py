"""What backends share whose bundles hold a C library, and no library that TVM's runtime loads."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import onnx
import tvm

from mbv3c.bundle import Bundle
from mbv3c.c_library.check import FilesParity
from mbv3c.c_library.stops import ProgramRunner, StoppingRunner
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Feed
from mbv3c.job import Job
from mbv3c.lowering.lower import Lowered
from mbv3c.parity.compare import Parity
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.ladder.climb import BackendStages
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.verdict import Verdict
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.targets.backend import Backend
from mbv3c.targets.library.again import Again, archived_constants, lowered_again
from mbv3c.targets.library.building import lower_library
from mbv3c.targets.library.judging import beside_given, compared
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.verifying import kernels_alone
from mbv3c.targets.reference import reference_of, seeded_reference


class CLibraryBackend(Backend):
    """Builds a C library, which programs of its own run in an emulator."""

    tools = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", "ziglang")

    @property
    def built_in(self) -> Mapping[str, str]:
        return {"LLVM": str(tvm.target.codegen.llvm_version_major())}

    @abstractmethod
    def lower_graph(self, graph: onnx.ModelProto, job: Job) -> Lowered:
        """Lower a rewritten graph.

        Raises:
            UnknownOperatorsError: TVM has no importer for some operators.
            ModelError: a node has no known shape, or TVM cannot lower it.
        """

    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> Lowered:
        progress(f"compiling for {job.target.name} ({len(prepared.graph.graph.node)} operators)")
        return lower_library(self, prepared.graph, job, prepared.reports)

    def blocks(
        self, bundle: Bundle, progress: Progress, inputs: list[Feed] | None = None
    ) -> BlockErrors | str:
        return (
            f"The kernels of a C library for {bundle.manifest.target.name} are checked one by "
            "one; see the checks."
        )

    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> BackendStages:
        raise UsageError(
            f"{bundle.manifest.target.name} has no stages that run apart: `mbv3c verify` checks "
            "every kernel by itself, and the ladder of the same model for host_cpu what comes "
            "before"
        )

    @abstractmethod
    def processor_for_tvm(self, bundle: Bundle) -> tvm.target.Target:
        """Return the processor of a bundle, for TVM."""

    @abstractmethod
    def files_again(self, bundle: Bundle, again: Again) -> FilesParity:
        """Write the files beside the library once more, and compare them."""

    def verify(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        known: Prepared | None = None,
        inputs: list[Feed] | None = None,
    ) -> Verdict:
        """Check a bundle's library: whole, every kernel by itself, and its constants.

        The reference of a network that mbv3c quantized is the quantized model; the model as given
        is beside it.
        """
        with self.open(bundle, progress, place) as opened:
            return self._compared(bundle, opened, progress, known, inputs)

    def _compared(
        self,
        bundle: Bundle,
        opened: Runnable,
        progress: Progress,
        known: Prepared | None,
        inputs: list[Feed] | None,
    ) -> Parity:
        progress("running onnxruntime on the model that the library must equal")
        reference = reference_of(bundle, known, inputs)
        progress(f"running the C library on the {opened.ran_on}")
        outputs = opened.runner.run(opened.folder, reference.inputs)
        again = lowered_again(self, bundle, known)
        record, runner = manifest_of(bundle).c_library, opened.runner
        assert record is not None and isinstance(runner, ProgramRunner)
        target = self.processor_for_tvm(bundle)
        stopping = StoppingRunner(runner, again.lowered, target, record.arena_alignment)
        stops = replace(opened, runner=stopping, kernels=manifest_of(bundle).kernels)
        alone = kernels_alone(again.graph, reference, stops, progress)
        seeded = seeded_reference(bundle, known, reference, own=inputs is not None)
        dense_weights = manifest_of(bundle).dense_weights
        parity = compared(bundle, opened, outputs, reference, seeded, again.graph, dense_weights)
        parity = replace(
            parity,
            files=None if known else self.files_again(bundle, again),
            kernels=alone,
            constants=archived_constants(bundle, again, runner.library, record.arena_alignment),
            proven=not bundle.precision.quantized,
        )
        return beside_given(parity, bundle, outputs, reference, known, inputs, progress)
