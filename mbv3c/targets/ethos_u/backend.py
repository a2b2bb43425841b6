"""The backend of Arm's Ethos-U: int8 only, compiled by vela, verified without a device.

Modules that need the NPU's tools are imported where the tools were looked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mbv3c.bundle import NPU_STREAM, Bundle
from mbv3c.costs.asking import Coster
from mbv3c.errors import UsageError
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Feed
from mbv3c.job import Job
from mbv3c.lowering.plan import Choices
from mbv3c.manifest import Manifest
from mbv3c.parity.gate.baseline import CYCLES, Footprint
from mbv3c.parity.gate.blocks import BlockErrors
from mbv3c.parity.ladder.climb import BackendStages
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.verdict import Verdict
from mbv3c.precision import INT8, Precision
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.quantization.by_itself import OnDevice
from mbv3c.target import Target
from mbv3c.targets.backend import Backend, Built
from mbv3c.targets.ethos_u import report
from mbv3c.targets.ethos_u.devices import WING, NpuOptions, NpuTarget, check_knobs, read_options
from mbv3c.targets.ethos_u.doctor import NPU_TOOLS, require_npu_tools
from mbv3c.targets.ethos_u.manifest import NpuManifest, manifest_of, options_of
from mbv3c.targets.ethos_u.memories import VELA_INI, read_vela_config, with_config
from mbv3c.targets.ethos_u.tuning.choose import VelaChoices
from mbv3c.targets.ethos_u.tuning.estimates import context_of, estimates_for, status_lines
from mbv3c.targets.ethos_u.verdict import sentences
from mbv3c.targets.evidence import Evidence, LayerEstimate
from mbv3c.tuning.choices import looked_in
from mbv3c.tuning.request import TuneRequest, Tuning, TuningDatabase


class EthosUBackend(Backend):
    """Compiles for Ethos-U55, U65 and U85."""

    wing = WING
    tools = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", *NPU_TOOLS)
    manifest = NpuManifest
    program = (NPU_STREAM,)
    native = False  # the stream is interpreted, and TOSA and ONNX are read
    ladder_inputs = 3
    describe_compiled = staticmethod(report.describe_compiled)
    describe_bundle = staticmethod(report.describe_bundle)

    def read_options(
        self, target: Target, given: Mapping[str, Any], *, explain: bool
    ) -> tuple[Target, object]:
        npu = _npu(target)
        if "vela_config" in given:
            text = read_vela_config(Path(given["vela_config"]))
            npu = with_config(npu, text, given.get("system_config"), given.get("memory_mode"))
        return npu, read_options(npu, given, explain=explain)

    def check_precision(self, target: Target, precision: Precision) -> None:
        if precision != INT8:
            raise UsageError(
                f"{target.name} computes in {INT8} only; leave --precision {precision} out"
            )

    def check(self, job: Job, *, verify: bool) -> None:
        require_npu_tools()
        self.check_precision(job.target, job.precision)
        if isinstance(job.options, NpuOptions):
            check_knobs(job.options.knobs, _npu(job.target))

    def check_model(self, model: Any, job: Job) -> None:
        from mbv3c.targets.ethos_u.accepted import check_image
        from mbv3c.targets.ethos_u.loops import check_loops

        check_image(model)
        if not (isinstance(job.options, NpuOptions) and job.options.artifact):
            check_loops(model)

    def job_of(self, bundle: Bundle) -> Job:
        options = options_of(manifest_of(bundle))
        return replace(super().job_of(bundle), target=self.device_of(bundle), options=options)

    def choices(self, target: Target, roots: Sequence[Path], progress: Progress) -> Choices:
        if roots:
            progress(looked_in(roots, [target.name]))
        return VelaChoices(tuple(roots))

    def on_device(self, job: Job) -> OnDevice:
        from mbv3c.targets.ethos_u.compiling import on_device

        return partial(on_device, job)

    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> Any:
        from mbv3c.targets.ethos_u.compiling import lower

        return lower(prepared, job, progress)

    def build(self, prepared: Prepared, lowered: Any, job: Job, folder: Path) -> Built:
        from mbv3c.targets.ethos_u.compiling import build

        x = prepared.reference.inputs[0]
        built, golden, least = build(lowered, _npu(job.target), folder, x)
        alternatives = {"optimise size": least} if least is not None else {}
        return Built(built, golden, alternatives)

    def complete(self, manifest: Manifest, built: Built, job: Job) -> Manifest:
        from mbv3c.targets.ethos_u.compiling import complete

        return complete(manifest, built.details, _npu(job.target))

    @contextmanager
    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        *,
        stand_in: bool = True,
    ) -> Iterator[Runnable]:
        """Open the interpreter of command streams."""
        self.check_open(bundle, place)

        from mbv3c.targets.ethos_u.runner import StreamRunner

        runner = StreamRunner(bundle)

        yield Runnable(bundle.path, runner, runner.description)

    def verify(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        known: Prepared | None = None,
        inputs: list[Feed] | None = None,
    ) -> Verdict:
        self._check_place(bundle, place)
        require_npu_tools()

        from mbv3c.targets.ethos_u.verify import verify

        progress("comparing fp32, QDQ, TOSA and command stream, step by step")
        return verify(bundle, self.device_of(bundle), inputs, again=known is None)

    def blocks(
        self,
        bundle: Bundle,
        progress: Progress,
        inputs: list[Feed] | None = None,
    ) -> BlockErrors | str:
        return "The operators of an NPU bundle are checked one by one; see the checks."

    def footprint(self, bundle: Bundle) -> Footprint:
        cost = manifest_of(bundle).npu.cost
        sizes = {
            "stream_bytes": (bundle.path / NPU_STREAM).stat().st_size,
            "sram_bytes": cost.sram_bytes,
            "dram_bytes": cost.dram_bytes,
            "flash_bytes": cost.flash_bytes,
        }
        return Footprint(1, sizes)

    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> BackendStages:
        self._check_place(bundle, place)
        require_npu_tools()

        from mbv3c.targets.ethos_u.ladder import NpuStages

        return NpuStages(bundle, self.device_of(bundle), ladder, progress)

    def evidence(self, bundle: Bundle) -> Evidence:
        cost = manifest_of(bundle).npu.cost
        layers = [
            LayerEstimate(layer.name, layer.operation, layer.cycles, layer.macs)
            for layer in cost.layers
        ]
        return Evidence(layers=layers, cycles=cost.cycles, estimator="vela", sentences=sentences)

    def known_speed(self, bundle: Bundle) -> dict[str, Any] | None:
        return {"kind": CYCLES, "value": manifest_of(bundle).npu.cost.cycles}

    def check_bench(self, bundle: Bundle) -> None:
        raise UsageError(
            f"nothing here runs {bundle.manifest.target.name}: no host is an NPU; `mbv3c verify` "
            "checks"
        )

    def database(self, root: Path, target: Target) -> TuningDatabase:
        records = estimates_for(root, _npu(target))

        def is_current(context: object) -> bool:
            require_npu_tools()  # their versions matter
            return context == context_of(_npu(target))

        return TuningDatabase(records, is_current, lambda: status_lines(records))

    def check_tuning(self, job: Job, request: TuneRequest) -> None:
        require_npu_tools()
        from mbv3c.targets.ethos_u.tune import check_tuning

        check_tuning(request)

    def tune(
        self, model: Any, job: Job, request: TuneRequest, report: Callable[[Any], None]
    ) -> Tuning:
        from mbv3c.targets.ethos_u.tune import tune

        return tune(model, job, request, lambda text: report({"event": "step", "text": text}))

    def coster(self, target: Target, precision: Precision, place: Place | None = None) -> Coster:
        if place is not None:
            raise UsageError(
                f"{target.name} is an NPU, which no RPC server runs: vela estimates its cycles; "
                "leave --device and --tracker out"
            )
        require_npu_tools()

        from mbv3c.targets.ethos_u.costs import NpuCoster

        return NpuCoster(_npu(target), precision)

    def check_open(self, bundle: Bundle, place: Place | None) -> None:
        """Make sure that the interpreter can run a bundle's streams.

        Raises:
            UsageError: a device is asked for, or the interpreter does not know the bundle's.
            ToolError: the NPU's tools are missing.
        """
        self._check_place(bundle, place)
        require_npu_tools()
        if not self.device_of(bundle).interpreted:
            raise UsageError(
                f"nothing here runs a command stream of {bundle.manifest.target.name}: the "
                "interpreter knows Ethos-U55 and Ethos-U65-256 only; `mbv3c verify` without "
                "--images checks it up to the stream"
            )

    def device_of(self, bundle: Bundle) -> NpuTarget:
        """Return the device that a bundle is for, among the memories that it was given."""
        family, _, device = bundle.manifest.target.name.partition(":")
        npu = _npu(self.wing.find(family, device))
        if VELA_INI not in bundle.files:
            return npu
        record = manifest_of(bundle).target
        text = read_vela_config(bundle.path / VELA_INI)
        return with_config(npu, text, record.system_config, record.memory_mode)

    def _check_place(self, bundle: Bundle, place: Place | None) -> None:
        if place is not None:
            raise UsageError(
                f"{bundle.path} is for an NPU: no RPC server runs it; leave --device out"
            )


def _npu(target: Target) -> NpuTarget:
    assert isinstance(target, NpuTarget)
    return target


BACKEND = EthosUBackend()
