"""The ladder of a bundle for an NPU: rewrites → QDQ → TOSA → command stream.

TOSA runs in Arm's reference model, the command stream in the interpreter.

The reference for TOSA is onnxruntime on the QDQ model. The reference for the command stream is
TOSA, bit for bit.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.bundle import NPU_STREAM, Bundle, read_listed
from mbv3c.errors import ModelError
from mbv3c.feeds import Array
from mbv3c.parity.ladder.climb import layers_of
from mbv3c.parity.ladder.ladder import Ladder, Rung, Skipped
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit
from mbv3c.parity.ladder.stages import Inputs, StageResult, check_part
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run, run_reference, session
from mbv3c.parity.tolerance import LEAST_COSINE
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u import vela
from mbv3c.targets.ethos_u.accepted import RANKS
from mbv3c.targets.ethos_u.compiling import TOSA, host_of, lowering, run_tosa
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.host_parity import to_model
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import (
    InterpreterError,
    Program,
    StreamError,
    decode,
    read_program,
)
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Boundary, Region
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.verify import nudged, operators_alone, other_constants

PART, STREAM, ENDS, VELA = "part.tosa", "part_vela.npz", "ends.json", "vela.json"


@dataclass(frozen=True)
class SplitNetwork:
    """What an NPU computes of a quantized model, and what stays on the CPU behind the NPU."""

    region: Region
    host: onnx.ModelProto | None

    def to_model(self, integers: list[NDArray[Any]]) -> list[Array]:
        """Return the outputs of the model for the integers that the NPU gives."""
        return list(to_model(self.host, self.region.outputs, integers))

    def run_tosa(self, inputs: Inputs) -> list[list[Array]]:
        """Run TOSA on inputs of the model."""
        return [
            self.to_model(run_tosa(self.region.tosa, [self.region.inputs[0].to_device(x)]))
            for x in inputs
        ]

    def interpret(self, program: Program, inputs: Inputs) -> list[list[Array]]:
        """Run a command stream on inputs of the model; a broken stream gives NaN."""
        return [self._interpreted(program, self.region.inputs[0].to_device(x)) for x in inputs]

    def _interpreted(self, program: Program, integers: NDArray[np.int8]) -> list[Array]:
        try:
            return self.to_model(interpret(program, [integers]))
        except (StreamError, InterpreterError):
            shapes = [boundary.shape for boundary in self.region.outputs]
            if self.host is not None:
                types = [y.type.tensor_type for y in self.host.graph.output]
                shapes = [tuple(d.dim_value for d in declared.shape.dim) for declared in types]
            return [np.full(shape, np.nan, np.float32) for shape in shapes]


Lower = Callable[[onnx.ModelProto], SplitNetwork]


@dataclass(frozen=True)
class TosaStage:
    """The lowering of a QDQ model to TOSA."""

    lower: Lower
    name: str = "TOSA"
    ran_on: str = "TOSA reference model"
    precision: str = "npu"
    script: str = "tosa"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        lowered = self.lower(model)
        write_ends(lowered.region, folder)
        return StageResult(lowered.run_tosa, _operators(lowered.region))


@dataclass(frozen=True)
class StreamStage:
    """What vela makes of TOSA.

    Attributes:
        lower: lowers a QDQ model to TOSA.
        build: compiles a TOSA file; returns the .npz.
        vela: options for vela.
    """

    lower: Lower
    build: Callable[[bytes], bytes]
    vela: tuple[str, ...]
    name: str = "command stream"
    ran_on: str = "interpreter of the command stream"
    precision: str = "bits"
    script: str = "stream"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        lowered = self.lower(model)
        write_ends(lowered.region, folder)
        (folder / STREAM).write_bytes(self.build(lowered.region.tosa))
        (folder / VELA).write_text(json.dumps(self.vela) + "\n")
        program = read_program(folder / STREAM)
        return StageResult(
            lambda inputs: lowered.interpret(program, inputs),
            _operators(lowered.region),
            lowered.run_tosa,
        )


def write_ends(region: Region, folder: Path) -> None:
    """Write a region's TOSA file, and what the integers at its ends stand for."""
    (folder / PART).write_bytes(region.tosa)
    ends = {"input": _end(region.inputs[0]), "output": _end(region.outputs[0])}
    (folder / ENDS).write_text(json.dumps(ends, indent=2) + "\n")


def _end(end: Boundary) -> dict[str, Any]:
    scale, zero = end.quantization.scale, end.quantization.zero_point
    return {"shape": end.shape, "scale": float(scale), "zero_point": int(zero)}


def _operators(region: Region) -> tuple[str, ...]:
    covering = (operator for operator in region.operators if operator.nodes)
    return tuple(f"{operator.kind} ({', '.join(operator.nodes)})" for operator in covering)


_NO_OPERATION = ("OP_DMA_START", "OP_DMA_WAIT", "OP_KERNEL_WAIT", "OP_PMU_MASK")


def differing_layers(
    program: Program, intended: Program, region: Region, integers: NDArray[np.int8]
) -> list[str]:
    """Return the layers whose commands or constants differ between two streams.

    If commands differ, these are the layer of the first such command or, if that layer has no
    weights, the next layers with weights on both sides. If constants differ, these are all layers
    with other constants or, if the program stops early, the first such layer.

    Args:
        program: a stream.
        intended: the stream as it should be.
        region: the region that both streams compute.
        integers: an input on which both streams run.
    """
    interpret(intended, [integers])
    layers = {
        _word(place): region.channels[channel]
        for channel, place in intended.channels.items()
        if channel in region.channels
    }
    first = _first_difference(program.words, intended.words)
    if first is not None:
        return _around(layers, intended, first)
    stopped = False
    try:
        interpret(program, [integers])
    except (StreamError, InterpreterError):
        stopped = True
    missing = intended.channels.keys() - program.channels.keys()
    words = sorted({_word(intended.channels[channel]) for channel in missing})
    differing = [layers[word] for word in words if word in layers]
    if stopped:
        return differing[:1]
    tables = [region.tables[table] for table in intended.tables if table not in program.tables]
    return list(dict.fromkeys([*differing, *tables]))


def _first_difference(words: NDArray[Any], intended: NDArray[Any]) -> int | None:
    same = min(len(words), len(intended))
    differing = np.flatnonzero(words[:same] != intended[:same])
    if differing.size:
        return int(differing[0])
    return None if len(words) == len(intended) else same


def _around(layers: Mapping[int, str], intended: Program, first: int) -> list[str]:
    """Return the layer of the operation of a word, or the layers with weights on both sides."""
    operations = [
        command.word
        for command in decode(intended.words)
        if command.name.startswith("OP_") and command.name not in _NO_OPERATION
    ]
    own = next((word for word in operations if word >= first), operations[-1])
    if own in layers:
        return [layers[own]]
    before = [layers[word] for word in sorted(layers) if word < own]
    after = [layers[word] for word in sorted(layers) if word > own]
    return list(dict.fromkeys([*before[-1:], *after[:1]]))


def _word(place: str) -> int:
    """Return the word at which an operation stands, from a place in `Program.channels`."""
    return int(place.rsplit(" ", 1)[1])


_STREAM_INPUTS = 1


@dataclass
class NpuStages:
    """Climbs the stages of an NPU bundle, see `BackendStages`.

    Attributes:
        bundle: the bundle.
        target: device of the bundle.
        ladder: what has run so far.
        progress: function that is told what is being done.
    """

    bundle: Bundle
    target: NpuTarget
    ladder: Ladder
    progress: Progress

    least_cosine = LEAST_COSINE

    def __post_init__(self) -> None:
        npu = manifest_of(self.bundle).npu
        self.knobs, self.budget = npu.knobs, npu.sram_budget_bytes

    def references(self, quantized: onnx.ModelProto) -> list[list[ReferenceOutput]]:
        """Run the QDQ model; a few integers of the input that are a step off count as spread."""
        opened = session(quantized)
        start = self._lower(quantized).region.inputs[0].quantization
        return [
            [
                replace(output, spread=max(output.spread, error_of_range(y, output.output)))
                for output, y in zip(outputs, run(opened, nudged(x, start)), strict=True)
            ]
            for outputs, x in zip(
                run_reference(quantized, self.ladder.inputs), self.ladder.inputs, strict=True
            )
        ]

    def climb(self, model: onnx.ModelProto) -> None:
        model = device_graph(model)
        lowered = self._lower(model)
        self._tosa(model, lowered)
        self._stream(model, lowered)
        self.ladder.plain_seconds = self.ladder.rungs[0].row.seconds + sum(
            rung.row.seconds for rung in self.ladder.rungs[-3:]
        )

    def blame(self, given: onnx.ModelProto) -> None:
        rung = self.ladder.broken
        assert rung is not None
        self._blame_stream(rung, given)

    def _tosa(self, quantized: onnx.ModelProto, lowered: SplitNetwork) -> None:
        self.progress("running TOSA, as a whole and each operator by itself")
        at = time.monotonic()
        alone = operators_alone(quantized, lowered.region, self.ladder.inputs[0])
        problems = []
        if not alone.passed:
            problems.append(
                f"{alone.worst} by itself is {alone.lsb} LSB off (allowed {alone.allowed_lsb})"
            )
        tosa = read_listed(self.bundle, TOSA)
        if tosa != lowered.region.tosa:
            problems.append("the bundle's file is not what the QDQ model lowers to")
        written = SplitNetwork(replace(lowered.region, tosa=tosa), lowered.host)
        outputs = written.run_tosa(self.ladder.inputs)
        stage = TosaStage(self._lower)
        self.ladder.add(stage, quantized, outputs, time.monotonic() - at, problems)

    def _stream(self, quantized: onnx.ModelProto, lowered: SplitNetwork) -> None:
        if not self.target.interpreted:
            self._skip("command stream", f"the interpreter does not know {self.target.name}")
            return
        self.progress("interpreting the command stream")
        at = time.monotonic()
        problems = []
        outputs = lowered.interpret(
            program := self._program(), self.ladder.inputs[:_STREAM_INPUTS]
        )
        constants = other_constants(program, lowered.region)
        if constants:
            problems.append(constants)
        self.ladder.add(
            self._stream_stage(), quantized, outputs, time.monotonic() - at, problems, "npu"
        )

    def _blame_stream(self, rung: Rung, given: onnx.ModelProto) -> None:
        """Compare the bundle's own stream with what vela gives for its TOSA, and name the layer.

        A part of that stream cannot be had: compiling the parts again gives other streams.
        """
        stage = rung.stage
        if not isinstance(stage, StreamStage):
            return
        lowered = self._lower(rung.model)
        fresh = vela.build(lowered.region.tosa, self.target, self.knobs, self.budget).raw
        own = read_listed(self.bundle, NPU_STREAM)
        if own == fresh:
            return
        self.progress("the bundle's stream is not what vela gives: looking for the layer")
        with scratch_folder("stream") as folder:
            (folder / STREAM).write_bytes(fresh)
            right = read_program(folder / STREAM)
            replayed = replace(stage, build=lambda tosa: own)
            parts = Parts(rung.model)
            whole_part = parts.part(parts.input, rung.worst[1])
            assert whole_part is not None
            shown = check_part(replayed, whole_part, self.ladder.inputs[0], folder)
        integers = lowered.region.inputs[0].to_device(self.ladder.inputs[0])
        layers = differing_layers(self._program(), right, lowered.region, integers)
        own_names = [
            name
            for layer in layers
            for name in layers_of(given, parts, *_ends(rung.model, layer)) or [layer]
        ]
        kernels = tuple(line for line in shown.kernels if any(layer in line for layer in layers))
        self.ladder.silent = ""
        self.ladder.culprit = Culprit(
            replayed, replace(shown, kernels=kernels), tuple(own_names), 1
        )

    def _lower(self, model: onnx.ModelProto) -> SplitNetwork:
        model = device_graph(model)
        parts = partition(model, lowering(self.knobs.mean, self.target))
        region = npu_part(parts)
        if len(region.inputs[0].shape) not in RANKS:
            raise ModelError("the NPU takes images; this part begins behind them")
        return SplitNetwork(region, host_of(model, parts))

    def _stream_stage(self) -> StreamStage:
        options = vela.arguments(self.target, self.knobs, self.budget)

        def build(tosa: bytes) -> bytes:
            return vela.build(tosa, self.target, self.knobs, self.budget).raw

        return StreamStage(self._lower, build, tuple(options))

    def _program(self) -> Program:
        return read_program(self.bundle.path / NPU_STREAM)

    def _skip(self, stage: str, reason: str) -> None:
        self.ladder.skipped.append(Skipped(stage, reason))


def _ends(quantized: onnx.ModelProto, layer: str) -> tuple[str, str]:
    """Return the tensors before and behind a node, without their pairs."""
    node = next(candidate for candidate in quantized.graph.node if candidate.name == layer)
    parts = Parts(quantized)
    return parts.unquantized(node.input[0]), node.output[0]
