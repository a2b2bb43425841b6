"""The ladder of a bundle for an NPU: rewrites → QDQ → TOSA → command stream."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c import bundle as bundles
from mbv3c.errors import ModelError
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.ladder.bisect import check_part
from mbv3c.parity.ladder.climb import climb_rewrites
from mbv3c.parity.ladder.culprit import explain, layers_of
from mbv3c.parity.ladder.ladder import Ladder, Rung, Skipped
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit
from mbv3c.parity.ladder.stages import QuantizeStage
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run, run_reference, session
from mbv3c.parity.tolerance import LEAST_COSINE
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.backend import TOSA, Progress, compile_npu, host_of, lowering, npu_part
from mbv3c.targets.ethos_u.blame import differing_layers
from mbv3c.targets.ethos_u.devices import NpuTarget, find_npu
from mbv3c.targets.ethos_u.interpreter.program import Program, read_program
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.options import Knobs
from mbv3c.targets.ethos_u.stages import STREAM, SplitNetwork, StreamStage, TosaStage
from mbv3c.targets.ethos_u.tools import require_npu_tools
from mbv3c.targets.ethos_u.verify import nudged, operators_alone, other_constants

_INPUTS = 3
_IMAGE = 4  # rank of [N, C, H, W]
_STREAM_INPUTS = 1


def climb_npu(path: Path, progress: Progress) -> Ladder:
    """Run every stage that made a bundle, and find what the first that breaks gets wrong.

    Raises:
        Mbv3cError: the bundle is damaged, or a tool fails.
    """
    require_npu_tools()
    started = time.monotonic()
    climber = _NpuClimber(bundles.read_bundle(path), progress)
    climber.climb()
    ladder = climber.ladder
    ladder.seconds = time.monotonic() - started
    if ladder.broken is not None:
        explain(ladder, climber.given, progress)
        if ladder.culprit is None:
            climber.blame_file(ladder.broken)
    return ladder


def climb_npu_model(model: onnx.ModelProto, target: NpuTarget, progress: Progress) -> Ladder:
    """Compile a model for a device and climb what comes of it; nothing is kept.

    Raises:
        Mbv3cError: it cannot be compiled, or a tool fails.
    """
    with tempfile.TemporaryDirectory(prefix="mbv3c-ladder-") as name:
        path = Path(name) / "bundle"
        compile_npu(model, target, path, verify=False, progress=progress)
        return climb_npu(path, progress)


@dataclass
class _NpuClimber:
    """Runs the stages of a bundle in their order."""

    bundle: bundles.Bundle
    progress: Progress

    def __post_init__(self) -> None:
        npu = self.bundle.manifest["npu"]
        self.target = find_npu(self.bundle.manifest["target"]["name"])
        self.knobs = Knobs(**npu["knobs"])
        self.budget: int | None = npu["sram_budget_bytes"]
        inputs = parity_inputs(self.bundle.input_shape)[:_INPUTS]
        self.given = onnx.load(self.bundle.model)
        self.progress("running onnxruntime on the model as given")
        at = time.monotonic()
        self.ladder = Ladder(inputs, list(run_reference(self.given, inputs)))
        self.ladder.start(self.given, time.monotonic() - at)

    def climb(self) -> None:
        model = climb_rewrites(self.ladder, self.given, self.progress)
        self.progress("running onnxruntime on the QDQ model")
        at = time.monotonic()
        quantized = onnx.load(self.bundle.path / bundles.QUANTIZED)
        lowered = self._lower(quantized)
        references = _with_nudges(quantized, lowered, self.ladder.inputs)
        seconds = time.monotonic() - at
        self.ladder.hold_to(QuantizeStage(), model, references, seconds, LEAST_COSINE)
        self._tosa(quantized, lowered)
        self._stream(quantized, lowered)
        self.ladder.plain_seconds = self.ladder.rungs[0].row.seconds + sum(
            rung.row.seconds for rung in self.ladder.rungs[-3:]
        )

    def _tosa(self, quantized: onnx.ModelProto, lowered: SplitNetwork) -> None:
        self.progress("running TOSA, as a whole and each operator by itself")
        at = time.monotonic()
        alone = operators_alone(quantized, lowered.region, self.ladder.inputs[0])
        said = []
        if not alone.passed:
            said.append(
                f"{alone.worst} by itself is {alone.lsb} LSB off (allowed {alone.allowed_lsb})"
            )
        tosa = (self.bundle.path / TOSA).read_bytes()
        if tosa != lowered.region.tosa:
            said.append("the bundle's file is not what the QDQ model lowers to")
        written = SplitNetwork(replace(lowered.region, tosa=tosa), lowered.host)
        outputs = written.run_tosa(self.ladder.inputs)
        stage = TosaStage(self._lower)
        self.ladder.add(stage, quantized, outputs, time.monotonic() - at, said)

    def _stream(self, quantized: onnx.ModelProto, lowered: SplitNetwork) -> None:
        if not self.target.interpreted:
            self._skip("command stream", f"the interpreter does not know {self.target.name}")
            return
        self.progress("interpreting the command stream")
        at = time.monotonic()
        said = []
        outputs = lowered.interpret(
            program := self._program(), self.ladder.inputs[:_STREAM_INPUTS]
        )
        constants = other_constants(program, lowered.region)
        if constants:
            said.append(constants)
        self.ladder.add(
            self._stream_stage(), quantized, outputs, time.monotonic() - at, said, "npu"
        )

    def blame_file(self, rung: Rung) -> None:
        """Compare the bundle's own stream with what vela gives for its TOSA, and name the layer.

        A part of it cannot be had: it is not what compiling the parts again gives.
        """
        stage = rung.stage
        if not isinstance(stage, StreamStage):
            return
        lowered = self._lower(rung.model)
        fresh = ethos_u.build(lowered.region.tosa, self.target, self.knobs, self.budget).raw
        own = (self.bundle.path / bundles.NPU_STREAM).read_bytes()
        if own == fresh:
            return
        self.progress("the bundle's stream is not what vela gives: looking for the layer")
        with tempfile.TemporaryDirectory(prefix="mbv3c-stream-") as name:
            (Path(name) / STREAM).write_bytes(fresh)
            right = read_program(Path(name) / STREAM)
            given = replace(stage, build=lambda tosa: own)
            parts = Parts(rung.model)
            whole = parts.part(parts.input, rung.worst[1])
            assert whole is not None
            shown = check_part(given, whole, self.ladder.inputs[0], Path(name))
        integers = lowered.region.inputs[0].to_device(self.ladder.inputs[0])
        layers = differing_layers(self._program(), right, lowered.region, integers)
        own_names = [
            name
            for layer in layers
            for name in layers_of(self.given, parts, *_ends(rung.model, layer)) or [layer]
        ]
        kernels = tuple(one for one in shown.kernels if any(layer in one for layer in layers))
        self.ladder.silent = ""
        self.ladder.culprit = Culprit(given, replace(shown, kernels=kernels), tuple(own_names), 1)

    def _lower(self, model: onnx.ModelProto) -> SplitNetwork:
        parts = partition(model, lowering(self.knobs.mean, self.target))
        region = npu_part(parts)
        if len(region.inputs[0].shape) != _IMAGE:
            raise ModelError("the NPU takes images; this part begins behind them")
        return SplitNetwork(region, host_of(model, parts))

    def _stream_stage(self) -> StreamStage:
        options = ethos_u.arguments(self.target, self.knobs, self.budget)

        def build(tosa: bytes) -> bytes:
            return ethos_u.build(tosa, self.target, self.knobs, self.budget).raw

        return StreamStage(self._lower, build, tuple(options))

    def _program(self) -> Program:
        return read_program(self.bundle.path / bundles.NPU_STREAM)

    def _skip(self, stage: str, reason: str) -> None:
        self.ladder.skipped.append(Skipped(stage, reason))


def _with_nudges(
    quantized: onnx.ModelProto, lowered: SplitNetwork, inputs: list[NDArray[np.float32]]
) -> list[list[ReferenceOutput]]:
    """Run the QDQ model; a few integers of the input that are a step off count as spread, too."""
    opened, start = session(quantized), lowered.region.inputs[0].quantization
    return [
        [
            replace(one, spread=max(one.spread, error_of_range(y, one.output)))
            for one, y in zip(each, run(opened, nudged(x, start)), strict=True)
        ]
        for each, x in zip(run_reference(quantized, inputs), inputs, strict=True)
    ]


def _ends(quantized: onnx.ModelProto, layer: str) -> tuple[str, str]:
    """Return the tensors before and behind a node, without their pairs."""
    node = next(one for one in quantized.graph.node if one.name == layer)
    parts = Parts(quantized)
    return parts.unquantized(node.input[0]), node.output[0]
