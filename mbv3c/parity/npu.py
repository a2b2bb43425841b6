"""What an NPU bundle computes, compared step by step from the model as given to the bits.

fp32 model ─ cosine, top 1, top 5 ─► QDQ ─ least significant bits ─► TOSA ─ bit-equal ─► stream
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mbv3c.execution.ethos_u.errors import InterpreterError, StreamError, UnsupportedError
from mbv3c.execution.ethos_u.interpreter import interpret
from mbv3c.execution.ethos_u.program import Program, read_program
from mbv3c.execution.ethos_u.reference import run_tosa
from mbv3c.lowering.ethos_u.composite import Quantization
from mbv3c.lowering.ethos_u.partition import Region
from mbv3c.parity.compare import compare
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, run_reference, session
from mbv3c.parity.tolerance import Tolerance

LSB = 3
# One integer that fp32 rounds the other way near a tie becomes many further down; how many is
# what onnxruntime's own ways of computing the same QDQ graph show.
TIMES_SPREAD = 2.0
LEAST_COSINE = 0.9
# Normalised inputs have a standard deviation of 1: larger ones only show what saturates.
_INPUTS = 3
_STREAM_INPUTS = 2
_ANY = Tolerance(of_range=1.0, times_spread=0.0, reason="int8 is judged by its cosine")


@dataclass(frozen=True)
class StepInput:
    """What one input has shown.

    Attributes:
        max_error_of_range: of the QDQ model's outputs against the fp32 model's.
        cosine: of the same.
        top1_agreement, top5_agreement: of the same; None if the outputs are no class scores.
        lsb: largest difference of TOSA's integers and those of the QDQ model in onnxruntime.
        allowed_lsb: how many may be.
        spread_lsb: how far onnxruntime's own optimisation levels are apart on the QDQ model.
    """

    max_error_of_range: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None
    lsb: int
    allowed_lsb: float
    spread_lsb: float

    @property
    def passed(self) -> bool:
        return self.cosine >= LEAST_COSINE and self.lsb <= self.allowed_lsb


@dataclass(frozen=True)
class OperatorsAlone:
    """What every operator has shown by itself, on the integers that onnxruntime gives it.

    Attributes:
        count: how many there are.
        worst: the one that is furthest from what it may be.
        lsb: how far it is from the QDQ model.
        allowed_lsb: how far it may be.
    """

    count: int
    worst: str
    lsb: int
    allowed_lsb: int

    @property
    def passed(self) -> bool:
        return self.lsb <= self.allowed_lsb


@dataclass(frozen=True)
class NpuParity:
    """The verdict on an NPU bundle.

    Attributes:
        inputs: what each input has shown.
        alone: what every operator by itself has shown.
        same_tosa: whether the TOSA file is, byte by byte, what the QDQ model lowers to.
        stream_equal: whether the interpreted command stream gave TOSA's bits; None if unchecked.
        stream_inputs: on how many inputs.
        stream_said: why it was not checked, or what was wrong.
    """

    inputs: tuple[StepInput, ...]
    alone: OperatorsAlone
    same_tosa: bool
    stream_equal: bool | None
    stream_inputs: int
    stream_said: str

    @property
    def passed(self) -> bool:
        return not self.missed

    @property
    def missed(self) -> list[str]:
        """Say what missed, step by step."""
        missed = []
        cosine = min(one.cosine for one in self.inputs)
        if cosine < LEAST_COSINE:
            missed.append(
                f"QDQ is at a cosine of {cosine:.3f} from fp32 (at least {LEAST_COSINE}); "
                "calibrate on inputs like the real ones"
            )
        if not self.alone.passed:
            missed.append(
                f"{self.alone.worst} by itself is {self.alone.lsb} LSB from onnxruntime (allowed "
                f"{self.alone.allowed_lsb})"
            )
        for one in self.inputs:
            if one.lsb > one.allowed_lsb:
                missed.append(f"TOSA is {one.lsb} LSB from QDQ (allowed {one.allowed_lsb:.0f})")
        if not self.same_tosa:
            missed.append("the TOSA file is not what the QDQ model lowers to")
        if self.stream_equal is False:
            missed.append(f"the command stream is not what TOSA computes: {self.stream_said}")
        return missed

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        top1 = [one.top1_agreement for one in self.inputs if one.top1_agreement is not None]
        top5 = [one.top5_agreement for one in self.inputs if one.top5_agreement is not None]
        worst = max(self.inputs, key=lambda one: one.lsb - one.allowed_lsb)
        return {
            "passed": self.passed,
            "missed": self.missed,
            "ran_on": self.ran_on,
            "max_error_of_range": max(one.max_error_of_range for one in self.inputs),
            "cosine": min(one.cosine for one in self.inputs),
            "top1_agreement": float(np.mean(top1)) if top1 else None,
            "top5_agreement": float(np.mean(top5)) if top5 else None,
            "qdq_against_tosa_lsb": worst.lsb,
            "qdq_against_tosa_allowed_lsb": worst.allowed_lsb,
            "operators_alone": {**asdict(self.alone), "passed": self.alone.passed},
            "same_tosa": self.same_tosa,
            "stream_bit_equal": self.stream_equal,
            "stream_inputs": self.stream_inputs,
            "stream_not_checked": self.stream_said if self.stream_equal is None else None,
            "stream_error": self.stream_said or None if self.stream_equal is False else None,
            "inputs": [{**asdict(one), "passed": one.passed} for one in self.inputs],
        }

    @property
    def ran_on(self) -> str:
        if self.stream_equal is None:
            return "TOSA reference model (not the command stream)"
        return "interpreter of the command stream, and TOSA reference model"


def check(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    region: Region,
    tosa: bytes,
    raw: Path,
    *,
    interpreted: bool,
) -> NpuParity:
    """Compare every step.

    Args:
        model: as the user gave it.
        quantized: with QDQ pairs.
        region: what the QDQ model lowers to.
        tosa: the file that says so.
        raw: the .npz file with the command stream.
        interpreted: whether the interpreter knows the device.

    Raises:
        Mbv3cError: a tool fails.
    """
    output_ends = [one.quantization for one in region.outputs]
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    inputs = parity_inputs(shape)[:_INPUTS]
    integers = [region.inputs[0].to_device(x) for x in inputs]
    wanted = [run_tosa(tosa, [one]) for one in integers]
    steps = _steps(model, quantized, inputs, wanted, output_ends)
    lowered = (_operators_alone(quantized, region, inputs[0]), tosa == region.tosa)
    if not interpreted:
        said = "the interpreter knows Ethos-U55 and Ethos-U65-256 only; see docs/npu.md"
        return NpuParity(steps, *lowered, None, 0, said)
    # Noise over all of int8 reaches what normalised inputs do not.
    noise = np.random.default_rng(20190506).integers(-128, 128, integers[0].shape)
    streamed = [integers[0], noise.astype(np.int8)][:_STREAM_INPUTS]
    tosas = [wanted[0], run_tosa(tosa, streamed[1:])]
    equal, count, said = _streamed(raw, streamed, tosas)
    return NpuParity(steps, *lowered, equal, count, said)


def _steps(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    inputs: list[NDArray[np.float32]],
    wanted: list[list[NDArray[Any]]],
    ends: Sequence[Quantization],
) -> tuple[StepInput, ...]:
    plain = session(quantized)
    fused = session(quantized, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    ours = [run(plain, x) for x in inputs]
    theirs = [run(fused, x) for x in inputs]
    references = list(run_reference(model, inputs))
    rows = compare(ours, references, _ANY, ran_on="onnxruntime", exact_program=False).inputs
    spreads = [
        max(_lsb(*pair) for pair in zip(ends, own, _as_integers(ends, other), strict=True))
        for own, other in zip(ours, theirs, strict=True)
    ]
    # How far a step travels is the network's doing; whether one happens, the input's.
    allowed = max(LSB, TIMES_SPREAD * max(spreads))
    return tuple(
        StepInput(
            max_error_of_range=row.max_error_of_range,
            cosine=row.cosine,
            top1_agreement=row.top1_agreement,
            top5_agreement=row.top5_agreement,
            lsb=max(_lsb(*pair) for pair in zip(ends, own, tosa, strict=True)),
            allowed_lsb=allowed,
            spread_lsb=spread,
        )
        for row, own, tosa, spread in zip(rows, ours, wanted, spreads, strict=True)
    )


def _as_integers(
    ends: Sequence[Quantization], outputs: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.int8]]:
    return [_in_device_order(end.integers(y)) for end, y in zip(ends, outputs, strict=True)]


def _in_device_order(values: NDArray[Any]) -> NDArray[Any]:
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def _lsb(end: Quantization, y: NDArray[np.float32], other: NDArray[Any]) -> int:
    mine = _in_device_order(end.integers(y)).ravel().astype(np.int32)
    return int(np.abs(mine - other.ravel()).max())


def _operators_alone(
    quantized: onnx.ModelProto, region: Region, x: NDArray[np.float32]
) -> OperatorsAlone:
    """Run every operator of a region on the integers that onnxruntime computes for its inputs."""
    integers = _every_integer(quantized, x)
    worst = OperatorsAlone(len(region.alone), "", 0, 1)
    for one in region.alone:
        inputs = [_four(integers[name]) for name in one.reads]
        (ours,) = run_tosa(one.tosa, inputs)
        theirs = _four(integers[one.makes])
        lsb = int(np.abs(ours.astype(np.int32) - theirs).max())
        if not worst.worst or lsb - one.allowed_lsb > worst.lsb - worst.allowed_lsb:
            worst = OperatorsAlone(worst.count, one.name, lsb, one.allowed_lsb)
    return worst


def _every_integer(
    quantized: onnx.ModelProto, x: NDArray[np.float32]
) -> dict[str, NDArray[np.int8]]:
    """Return what every QuantizeLinear makes, by its name, and by that of an input it reads."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    del model.graph.output[:]
    for node in nodes:
        shown = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT8, None)
        model.graph.output.append(shown)
    found: dict[str, NDArray[np.int8]] = {}
    for node, value in zip(nodes, run(session(model), x), strict=True):
        found[node.name] = found[node.input[0]] = value.view(np.int8)
    return found


def _four(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return integers of N, C, H, W or N, C in the order of the device: N, H, W, C."""
    if values.ndim == 4:
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    return values.reshape(len(values), 1, 1, -1)


def _streamed(
    raw: Path,
    inputs: list[NDArray[np.int8]],
    wanted: list[list[NDArray[Any]]],
) -> tuple[bool | None, int, str]:
    """Return the last three fields of `NpuParity`."""
    try:
        program = read_program(raw)
        for index, (x, outputs) in enumerate(zip(inputs, wanted, strict=True)):
            said = _difference(program, x, outputs)
            if said:
                return False, index + 1, said
    except UnsupportedError as error:
        return None, 0, str(error)
    except (StreamError, InterpreterError) as error:
        return False, 0, str(error)
    return True, len(inputs), ""


def _difference(program: Program, x: NDArray[np.int8], wanted: list[NDArray[Any]]) -> str:
    """Say how the stream's outputs differ; nothing if they do not."""
    for index, (ours, theirs) in enumerate(zip(interpret(program, [x]), wanted, strict=True)):
        different = int((ours.ravel() != theirs.ravel()).sum())
        if different:
            return f"{different} of {ours.size} elements of output {index}"
    return ""
