"""What an NPU bundle computes, compared step by step from the model as given to the bits.

fp32 model ─ cosine, top 1, top 5 ─► QDQ ─ least significant bits ─► TOSA ─ bit-equal ─► stream
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from mbv3c.bundle import NPU_HOST, NPU_STREAM, Bundle, read_bundled, read_listed
from mbv3c.errors import UsageError
from mbv3c.feeds import Feed, only_array
from mbv3c.graphs.load import model_input
from mbv3c.lowering.quantization import Quantization
from mbv3c.parity.agreement import Agreement, agreement, cosines
from mbv3c.parity.compare import compare
from mbv3c.parity.inputs import USUAL_INPUTS, inputs_of
from mbv3c.parity.reference import ReferenceOutput, run, run_reference, session
from mbv3c.parity.tolerance import ANY, LSB, TOLERANCES
from mbv3c.parity.verdict import Pair, Pairs
from mbv3c.prepare import rewritten_for
from mbv3c.targets.ethos_u.compiling import TOSA, lowering, run_tosa
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.host_parity import (
    OutputsAndIntegers,
    check_host,
    to_model,
    with_integers,
)
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import (
    InterpreterError,
    Program,
    StreamError,
    UnsupportedError,
    read_program,
)
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.layout import to_device
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Region
from mbv3c.targets.ethos_u.made_again import made_again
from mbv3c.targets.ethos_u.manifest import manifest_of
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.verdict import NpuParity, OperatorsAlone, StepInput

_NUDGED = 9
_STREAM_INPUTS = 2


def verify(
    bundle: Bundle, device: NpuTarget, inputs: list[Feed] | None = None, *, again: bool = True
) -> NpuParity:
    """Check a bundle, using only the files in the bundle; `inputs` are the user's own.

    `again` has vela compile the network once more, for comparison: not what it has just made.

    Raises:
        Mbv3cError: a tool fails.
    """
    manifest = manifest_of(bundle)
    cleaned, _ = rewritten_for(read_bundled(bundle.compiled_model), bundle.precision)
    quantized = device_graph(cleaned)
    region = npu_part(partition(quantized, lowering(manifest.npu.knobs.mean, device)))
    host = read_bundled(bundle.path / NPU_HOST) if manifest.host else None
    tosa, stream = read_listed(bundle, TOSA), bundle.path / NPU_STREAM
    given = read_bundled(bundle.model)
    found = check(
        given,
        quantized,
        region,
        tosa,
        stream,
        host,
        inputs,
        interpreted=device.interpreted,
    )
    if not again:
        return found
    return replace(found, again=made_again(bundle, device, region, inputs_of(given)[0]))


def check(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    region: Region,
    tosa: bytes,
    raw: Path,
    host: onnx.ModelProto | None = None,
    inputs: list[Feed] | None = None,
    *,
    interpreted: bool,
) -> NpuParity:
    """Compare every step.

    Args:
        model: the model as the user gave it.
        quantized: the model with QDQ pairs.
        region: what the QDQ model lowers to.
        tosa: the TOSA file of the region.
        raw: the .npz file with the command stream.
        host: what comes behind the NPU.
        inputs: the user's own inputs, instead of the seeded ones.
        interpreted: whether the interpreter knows the device.

    Raises:
        Mbv3cError: a tool fails.
    """
    inputs = inputs or inputs_of(model)[:USUAL_INPUTS]
    integers = [region.inputs[0].to_device(x) for x in inputs]
    wanted = [run_tosa(tosa, [x]) for x in integers]
    references = list(run_reference(model, inputs))
    made = [end.made_by for end in region.outputs] if host is not None else []
    ends = [end.quantization for end in region.outputs]
    seen = Seen(quantized, region.inputs[0].quantization, ends, made)
    ours = seen.plain(inputs)
    steps = steps_of(seen, inputs, ours, wanted, references)
    behind = None
    if host is not None:
        behind = check_host(quantized, region, host, ours, wanted, references)
    lowered = (operators_alone(quantized, region, inputs[0]), tosa == region.tosa, behind)
    pairs = _pairs(region, host, ours, wanted, references)
    as_given = _as_given(region, host, ours, references)
    if not interpreted:
        reason = "the interpreter knows Ethos-U55 and Ethos-U65-256 only; see docs/npu.md"
        return NpuParity(steps, *lowered, None, 0, reason, as_given, pairs)
    # Noise over all of int8 reaches what normalised inputs do not.
    noise = np.random.default_rng(20190506).integers(-128, 128, integers[0].shape)
    streamed = [integers[0], noise.astype(np.int8)][:_STREAM_INPUTS]
    tosas = [wanted[0], run_tosa(tosa, streamed[1:])]
    equal, count, reason = check_stream(raw, region, [[each] for each in streamed], tosas)
    return NpuParity(steps, *lowered, equal, count, reason, as_given, pairs)


def _pairs(
    region: Region,
    host: onnx.ModelProto | None,
    ours: list[OutputsAndIntegers],
    wanted: list[list[NDArray[Any]]],
    references: list[list[ReferenceOutput]],
) -> Pairs:
    """Return the outputs that TOSA's integers stand for beside those of the QDQ model."""
    return tuple(
        tuple(
            Pair(y, replace(reference, output=output, spread=0.0))
            for y, output, reference in zip(
                to_model(host, region.outputs, integers), model, outputs, strict=True
            )
        )
        for (model, _), integers, outputs in zip(ours, wanted, references, strict=True)
    )


def _as_given(
    region: Region,
    host: onnx.ModelProto | None,
    ours: list[OutputsAndIntegers],
    references: list[list[ReferenceOutput]],
) -> Agreement:
    """Say how near the QDQ model comes to the model as given, over all inputs."""
    ranges = [] if host is not None else [255 * end.quantization.scale for end in region.outputs]
    return agreement([model for model, _ in ours], references, len(references), ranges)


class Seen:
    """The QDQ model in onnxruntime: its outputs, and the integers that the NPU should give."""

    def __init__(
        self,
        quantized: onnx.ModelProto,
        start: Quantization,
        ends: Sequence[Quantization],
        made: list[str],
    ) -> None:
        """Show integers that QuantizeLinear nodes make; without any, those of the outputs.

        Args:
            quantized: the model.
            start: the steps of its input.
            ends: the steps of its outputs.
            made: the names of the nodes.
        """
        self._start, self._ends = start, ends
        self._count = len(quantized.graph.output)
        shown = with_integers(quantized, made)
        self._plain = session(shown)
        self._fused = session(shown, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)

    def plain(self, inputs: list[Feed]) -> list[OutputsAndIntegers]:
        """Return what each input gives, and the integers."""
        return [self._both(run(self._plain, x)) for x in inputs]

    def others(self, x: Feed) -> list[OutputsAndIntegers]:
        """Return what onnxruntime might as well give."""
        beside = nudged(x, self._start)
        return [self._both(run(*pair)) for pair in ((self._fused, x), (self._plain, beside))]

    def _both(self, outputs: list[NDArray[Any]]) -> OutputsAndIntegers:
        model, integers = outputs[: self._count], outputs[self._count :]
        if not integers:
            integers = [end.quantize(y) for end, y in zip(self._ends, model, strict=True)]
        return model, [to_device(array) for array in integers]


def steps_of(
    seen: Seen,
    inputs: list[Feed],
    ours: list[OutputsAndIntegers],
    wanted: list[list[NDArray[Any]]],
    references: list[list[ReferenceOutput]],
) -> tuple[StepInput, ...]:
    """Compare the QDQ model with the model as given and with TOSA, input by input."""
    outputs = [model for model, _ in ours]
    rows = compare(outputs, references, ANY, ran_on="onnxruntime", exact_program=False).inputs
    near = [agreement([y], [reference]) for y, reference in zip(outputs, references, strict=True)]
    spreads = [
        max(_lsb(integers, other) for _, other in seen.others(x))
        for x, (_, integers) in zip(inputs, ours, strict=True)
    ]
    # How far a step travels is the network's doing; whether one happens, the input's.
    allowed = max(LSB, TOLERANCES["npu"].times_spread * max(spreads))
    return tuple(
        StepInput(
            max_error_of_range=row.max_error_of_range,
            cosine=alike,
            top1_agreement=given.top1,
            top5_agreement=given.top5,
            lsb=_lsb(integers, tosa),
            allowed_lsb=allowed,
            spread_lsb=spread,
        )
        for row, alike, given, (_, integers), tosa, spread in zip(
            rows, cosines(outputs, references), near, ours, wanted, spreads, strict=True
        )
    )


def nudged(x: Feed, start: Quantization) -> NDArray[Any]:
    """Return an input of which a few integers are one step up or down, in its own type."""
    rng = np.random.default_rng(20190506)
    image = only_array(x)
    values = start.dequantize(start.quantize(image)).reshape(-1)
    places = rng.choice(values.size, min(_NUDGED, values.size), replace=False)
    values[places] += np.float32(start.scale) * rng.choice([-1, 1], len(places)).astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.reshape(image.shape).astype(image.dtype)


def _lsb(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> int:
    """Return the largest difference of integers in the order of the device."""
    return max(
        int(np.abs(a.ravel().astype(np.int32) - b.ravel()).max())
        for a, b in zip(ours, theirs, strict=True)
    )


def operators_alone(quantized: onnx.ModelProto, region: Region, x: Feed) -> OperatorsAlone:
    """Run every operator of a region on the integers that onnxruntime computes for its inputs."""
    integers = _every_integer(quantized, x)
    worst = OperatorsAlone(len(region.single_operators), "", 0, 1)
    for operator in region.single_operators:
        inputs = [to_device(integers[name]) for name in operator.reads]
        (ours,) = run_tosa(operator.tosa, inputs)
        theirs = to_device(integers[operator.makes])
        lsb = int(np.abs(ours.astype(np.int32) - theirs).max())
        if not worst.worst or lsb - operator.allowed_lsb > worst.lsb - worst.allowed_lsb:
            worst = OperatorsAlone(worst.count, operator.name, lsb, operator.allowed_lsb)
    return worst


def _every_integer(quantized: onnx.ModelProto, x: Feed) -> dict[str, NDArray[np.int8]]:
    """Return what every QuantizeLinear makes, by its name, and by that of an input it reads."""
    nodes = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    values = run(session(with_integers(quantized, [node.name for node in nodes])), x)
    by_name: dict[str, NDArray[np.int8]] = {}
    image = model_input(quantized).name  # perhaps with its channels last, or of whole pixels
    moved = {image: image}
    for node in quantized.graph.node:
        if node.op_type in ("Transpose", "Cast") and node.input[0] in moved:
            moved[node.output[0]] = image
    for node, value in zip(nodes, values[-len(nodes) :], strict=True):
        read = node.input[0]
        by_name[node.name] = by_name[moved.get(read, read)] = value.view(np.int8)
    return by_name


def check_stream(
    raw: Path,
    region: Region,
    inputs: Sequence[Sequence[NDArray[np.int8]]],
    wanted: Sequence[Sequence[NDArray[Any]]],
) -> tuple[bool | None, int, str]:
    """Return the last three fields of `NpuParity`."""
    try:
        program = read_program(raw)
        for index, (x, outputs) in enumerate(zip(inputs, wanted, strict=True)):
            difference = _difference(program, x, outputs)
            if difference:
                return False, index + 1, difference
        difference = other_constants(program, region)
        if difference:
            return False, len(inputs), difference
    except UnsupportedError as error:
        return None, 0, str(error)
    except (StreamError, InterpreterError, UsageError) as error:  # the last: of other inputs
        return False, 0, str(error)
    return True, len(inputs), ""


def other_constants(program: Program, region: Region) -> str:
    """Say which constants of the stream are not those of TOSA; nothing if all are.

    Inputs show a wrong bit only where it matters for them.
    """
    pairs: tuple[tuple[str, Mapping[Any, str], Mapping[Any, str]], ...] = (
        ("channels, their weights, bias or scale,", program.channels, region.channels),
        ("tables", program.tables, region.tables),
    )
    for kind, ours, theirs in pairs:
        more, missing = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
        if more or missing:
            places = sorted({ours[key] for key in more})
            layers = sorted({theirs[key] for key in missing})
            return (
                f"{len(more)} {kind} are not TOSA's ({', '.join(places[:4])}), and {len(missing)} "
                f"of TOSA's are missing ({', '.join(layers[:4])})"
            )
    return ""


def _difference(
    program: Program, x: Sequence[NDArray[np.int8]], wanted: Sequence[NDArray[Any]]
) -> str:
    """Say how the stream's outputs differ; nothing if they do not."""
    for index, (ours, theirs) in enumerate(zip(interpret(program, list(x)), wanted, strict=True)):
        different = int((ours.ravel() != theirs.ravel()).sum())
        if different:
            return f"{different} of {ours.size} elements of output {index}"
    return ""
