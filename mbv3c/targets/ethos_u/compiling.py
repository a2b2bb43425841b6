"""Compile a quantized model for an Ethos-U: partition → TOSA → vela → files of a bundle."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from mbv3c import bundle as bundles
from mbv3c.bundle import Golden
from mbv3c.errors import ModelError, ToolError, UsageError
from mbv3c.feeds import Feed
from mbv3c.graphs.load import dtype_of, model_inputs, static_shape
from mbv3c.job import Job
from mbv3c.manifest import Manifest, TensorRecord
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u import c_source, vela
from mbv3c.targets.ethos_u.devices import NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.device_graph import (
    ZERO_POINTS,
    device_graph,
    is_cast_first,
)
from mbv3c.targets.ethos_u.lowering.host import host_part
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.region import Boundary, Partition, Region
from mbv3c.targets.ethos_u.manifest import (
    EndRecord,
    NpuManifest,
    NpuRecord,
    NpuTargetRecord,
)
from mbv3c.targets.ethos_u.placement import npu_part, placed
from mbv3c.targets.ethos_u.tuning.choose import Better, VelaChoices, better_choice
from mbv3c.targets.ethos_u.vela import Cost


def run_tosa(tosa: bytes, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
    """Run a TOSA file on inputs of N, H, W, C.

    Raises:
        ToolError: the reference model refuses the file.
    """
    import tosa_reference_model

    arrays = [np.ascontiguousarray(x) for x in inputs]
    with _silent():
        outputs, status = tosa_reference_model.run(tosa, arrays)
    if status != tosa_reference_model.GraphStatus.TOSA_VALID:
        raise ToolError(f"Arm's TOSA reference model does not run the network: {status}")
    return list(outputs)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what C++ prints: a warning that TOSA 1.0.0 is older than the model, as it must be."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


TOSA = "model.tosa"
TFLITE = "model_vela.tflite"


@dataclass(frozen=True)
class NpuLowered:
    """A quantized model, partitioned and lowered.

    Attributes:
        quantized: the model.
        parts: partition of the model, with one region.
        host: what comes behind the region; None if nothing does.
        options: how to compile it, perhaps with a better choice of knobs than the user's.
        better: the better choice; None if the knobs are the user's own.
    """

    quantized: onnx.ModelProto
    parts: Partition
    host: onnx.ModelProto | None
    options: NpuOptions
    better: Better | None

    @property
    def region(self) -> Region:
        (region,) = self.parts.regions
        return region


@dataclass(frozen=True)
class NpuBuilt:
    """What vela made of a lowered model.

    Attributes:
        lowered: the lowered model.
        output: the command stream and what it costs.
    """

    lowered: NpuLowered
    output: vela.VelaOutput


def lower(prepared: Prepared, job: Job, progress: Progress) -> NpuLowered:
    """Partition a quantized model and lower it, with the best choice that is known.

    Raises:
        UsageError: `--float-io` does not fit the model.
        ModelError: the model has integers other than int8, or only a part of it fits the NPU.
    """
    target, quantized = npu_of(job), device_graph(prepared.graph)
    options = job.options if isinstance(job.options, NpuOptions) else NpuOptions()
    check_types(quantized, target)
    _check_ends(quantized, options)
    progress("partitioning and lowering to TOSA")
    partitions: dict[str, Partition] = {}

    def parts(mean: str) -> Partition:
        if mean not in partitions:
            partitions[mean] = partition(quantized, lowering(mean, target))
        return partitions[mean]

    roots = job.choices.roots if isinstance(job.choices, VelaChoices) else ()
    explain = options.compare_size
    better = better_choice(
        lambda mean: npu_part(parts(mean), explain=explain).tosa, target, options, roots, progress
    )
    if better is not None:
        options = replace(options, knobs=better.knobs)
    chosen = parts(options.knobs.mean)
    npu_part(chosen, explain=explain)
    progress(f"compiling for {target.name} with vela")
    return NpuLowered(quantized, chosen, host_of(quantized, chosen), options, better)


def build(lowered: NpuLowered, target: NpuTarget, folder: Path) -> tuple[NpuBuilt, Cost | None]:
    """Have vela compile a lowered model and write it into a bundle.

    Returns what was built, and what `--optimise size` would cost, where that was asked.

    Raises:
        Mbv3cError: the budget of SRAM is not kept, or vela fails.
    """
    tuned = lowered.better is not None
    output, least = _built(lowered.region, target, lowered.options, tuned=tuned)
    _write(lowered, output, target, folder)
    return NpuBuilt(lowered, output), least


def golden_of(lowered: NpuLowered, x: Feed) -> Golden:
    """Return an input of the command stream, or of the program around it, and what it gives."""
    region, float_io = lowered.region, lowered.options.float_io
    integers = region.inputs[0].to_device(x)
    outputs = run_tosa(region.tosa, [integers])
    ends = zip(region.outputs, outputs, strict=False)
    return Golden(
        x if float_io else integers,
        [end.to_model(y) if float_io else y for end, y in ends],
        [0.0] * len(outputs),
        [False] * len(outputs),
    )


def npu_of(job: Job) -> NpuTarget:
    """Return the device of a job."""
    assert isinstance(job.target, NpuTarget)
    return job.target


def lowering(mean: str, target: NpuTarget) -> LoweringOptions:
    """Return how a network is lowered for a device."""
    return LoweringOptions(mean, target.interpolates)


def check_types(quantized: onnx.ModelProto, target: NpuTarget) -> None:
    """Refuse a quantized model with integers other than int8.

    Raises:
        ModelError: there are some; the first is named.
    """
    zeros = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        # Without a zero point ONNX quantizes to uint8.
        zero = zeros.get(node.input[2]) if len(node.input) > 2 else TensorProto.UINT8
        if zero not in (None, TensorProto.INT8):
            dtype = TensorProto.DataType.Name(zero).lower()
            raise ModelError(
                f"{target.name} computes activations of int8 here, and {node.input[0]} is of "
                f"{dtype} (node {node.name}); quantize with --activations int8, or onnxruntime's "
                "quantizer with activation_type=QuantType.QInt8"
            )


def _check_ends(quantized: onnx.ModelProto, options: NpuOptions) -> None:
    value = model_inputs(quantized)[0]
    if options.float_io and value.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(
            f"--float-io is for images in fp32, and {value.name!r} holds whole numbers; leave it "
            "out: the device takes them as they are, uint8 less 128"
        )


def host_of(quantized: onnx.ModelProto, parts: Partition) -> onnx.ModelProto | None:
    """Return what comes behind the NPU; None if nothing does."""
    return host_part(quantized, npu_part(parts).outputs) if parts.on_cpu else None


RANKS = (4, 3)  # of an image, 1xCxHxW, and of a row, 1xCxL


def check_image(model: onnx.ModelProto) -> None:
    """Refuse a model that does not take one image.

    Raises:
        UsageError: it takes another batch, no image, or more than one.
    """
    value = model_inputs(model)[0]
    others = [other.name for other in model_inputs(model)[1:]]
    if others:
        raise UsageError(
            f"an Ethos-U takes one image here; the model takes {value.name} and "
            f"{', '.join(others)}, too: use another target, or make the others constants"
        )
    kind = value.type.tensor_type.elem_type
    whole = kind in ZERO_POINTS and is_cast_first(model)
    if kind != TensorProto.FLOAT and not whole:
        dtype = TensorProto.DataType.Name(kind).lower()
        raise UsageError(
            "an Ethos-U takes an image in fp32, or of uint8 or int8 that a Cast makes fp32; "
            f"{value.name!r} is {dtype}\nput such a Cast first, or use another target"
        )
    shape = static_shape(value)
    if shape is None or len(shape) not in RANKS or shape[0] != 1:
        raise UsageError(
            "an Ethos-U computes one image, 1x3xHxW, or one row, 1xCxL, at a time; the model's "
            f"input is {'x'.join(map(str, shape or ()))}; "
            f"{'use --batch 1' if len(shape or ()) in RANKS else 'use another target'}"
        )


def _built(
    region: Region, target: NpuTarget, options: NpuOptions, *, tuned: bool
) -> tuple[vela.VelaOutput, Cost | None]:
    knobs, budget = options.knobs, options.sram_bytes
    # A tuned choice is built exactly as it was estimated; that it fits was looked up.
    built = vela.build(region.tosa, target, knobs, None if tuned else budget)
    over = budget is not None and built.cost.sram_bytes > budget
    least = None
    if over or options.compare_size:
        small = replace(knobs, optimise="Size")
        least, _ = vela.estimate(region.tosa, target, small, budget)
    if budget is not None and least is not None:
        vela.check_budget(built.cost, least, target, budget)
    if built.cost.cpu_operators:
        left = [layer.name for layer in built.cost.layers if not layer.on_npu]
        raise ModelError(f"vela leaves these operators to the CPU: {', '.join(left)}")
    return built, least


def _write(lowered: NpuLowered, output: vela.VelaOutput, target: NpuTarget, folder: Path) -> None:
    region, float_io = lowered.region, lowered.options.float_io
    models = {bundles.QUANTIZED: lowered.quantized, bundles.NPU_HOST: lowered.host}
    for name, model in models.items():
        if model is not None:
            (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    (folder / TOSA).write_bytes(region.tosa)
    (folder / TFLITE).write_bytes(output.tflite)
    (folder / bundles.NPU_STREAM).write_bytes(output.raw)
    layout, ends = c_source.read_layout(output.raw), (region.inputs, region.outputs)
    header = c_source.header(layout, target.name, *ends, float_io=float_io)
    (folder / c_source.HEADER).write_text(header)
    (folder / c_source.SOURCE).write_text(c_source.source(layout, *ends, float_io=float_io))


def complete(manifest: Manifest, built: NpuBuilt, target: NpuTarget) -> NpuManifest:
    """Add to a manifest what an NPU bundle says of itself."""
    lowered, output = built.lowered, built.output
    region, host, options = lowered.region, lowered.host, lowered.options
    layout = c_source.read_layout(output.raw)
    on_cpu = lowered.parts.on_cpu if host is not None else ()
    ends = lowered.parts.ends if options.float_io else ()
    npu = NpuRecord(
        inputs=_ends(region.inputs, layout.inputs),
        outputs=_ends(region.outputs, layout.outputs),
        constants_region=layout.constants_region,
        scratch_bytes={str(number): size for number, size in sorted(layout.scratch.items())},
        command_stream_bytes=len(layout.commands),
        constants_bytes=len(layout.constants),
        knobs=options.knobs,
        tuned=lowered.better.record() if lowered.better else None,
        sram_budget_bytes=options.sram_bytes,
        placement=tuple(placed(operator) for operator in (*region.operators, *on_cpu, *ends)),
        cost=output.cost,
        feasible=output.feasible,
        image_dtype=manifest.input.dtype,
    )
    record = NpuTargetRecord(
        target.name,
        target.macs,
        options.knobs.system_config or target.system_config,
        options.knobs.memory_mode or target.memory_mode,
        target.clock_mhz,
    )
    dtype = "float32" if options.float_io else "int8"
    taken = TensorRecord(manifest.input.name, manifest.input.shape, dtype)
    common = {"target": record, "input": taken, "outputs": _outputs(lowered, dtype)}
    return NpuManifest(
        **(vars(manifest) | common), host=bundles.NPU_HOST if host is not None else None, npu=npu
    )


def _outputs(lowered: NpuLowered, dtype: str) -> tuple[TensorRecord, ...]:
    """Say what the whole gives: the NPU, or what comes behind it."""
    if lowered.host is not None:
        return tuple(
            TensorRecord(output.name, tuple(static_shape(output) or ()), dtype_of(output).name)
            for output in lowered.host.graph.output
        )
    outputs = lowered.region.outputs
    return tuple(TensorRecord(end.name, tuple(end.shape), dtype) for end in outputs)


def _ends(
    boundaries: Sequence[Boundary], places: Sequence[tuple[int, int]]
) -> tuple[EndRecord, ...]:
    return tuple(
        EndRecord(
            name=boundary.name,
            shape=tuple(boundary.device_shape),
            layout="NHWC",
            dtype="int8",
            scale=float(boundary.quantization.scale),
            zero_point=int(boundary.quantization.zero_point),
            region=region,
            offset=offset,
        )
        for boundary, (region, offset) in zip(boundaries, places, strict=True)
    )
