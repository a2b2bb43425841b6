"""What an NPU bundle computes, compared step by step from the model as given to the bits.

fp32 model ─ cosine, top 1, top 5 ─► QDQ ─ least significant bits ─► TOSA ─ bit-equal ─► stream
"""

from collections.abc import Sequence
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
from mbv3c.parity.npu_verdict import NpuParity, OperatorsAlone, StepInput
from mbv3c.parity.reference import run, run_reference, session
from mbv3c.parity.tolerance import Tolerance

LSB = 3
# One integer that fp32 rounds the other way near a tie becomes many further down. How many is what
# onnxruntime's own ways of computing the same QDQ graph show, and what becomes of a few integers
# of the input that are a step off; the latter, because those ways may happen to agree.
TIMES_SPREAD = 2.0
_NUDGED = 9
# Normalised inputs have a standard deviation of 1: larger ones only show what saturates.
_INPUTS = 3
_STREAM_INPUTS = 2
_ANY = Tolerance(of_range=1.0, times_spread=0.0, reason="int8 is judged by its cosine")


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
    steps = _steps(model, quantized, region.inputs[0].quantization, inputs, wanted, output_ends)
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
    start: Quantization,
    inputs: list[NDArray[np.float32]],
    wanted: list[list[NDArray[Any]]],
    ends: Sequence[Quantization],
) -> tuple[StepInput, ...]:
    plain = session(quantized)
    fused = session(quantized, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    ours = [run(plain, x) for x in inputs]
    others = [(run(fused, x), run(plain, _nudged(x, start))) for x in inputs]
    references = list(run_reference(model, inputs))
    rows = compare(ours, references, _ANY, ran_on="onnxruntime", exact_program=False).inputs
    spreads = [
        max(
            _lsb(*pair)
            for other in both
            for pair in zip(ends, own, _as_integers(ends, other), strict=True)
        )
        for own, both in zip(ours, others, strict=True)
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


def _nudged(x: NDArray[np.float32], start: Quantization) -> NDArray[np.float32]:
    """Return an input of which a few integers are one step up or down."""
    rng = np.random.default_rng(20190506)
    nudged = start.values(start.integers(x)).reshape(-1)
    places = rng.choice(nudged.size, min(_NUDGED, nudged.size), replace=False)
    nudged[places] += np.float32(start.scale) * rng.choice([-1, 1], len(places)).astype(np.float32)
    return nudged.reshape(x.shape)


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
