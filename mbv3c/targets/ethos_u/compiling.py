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

from mbv3c import bundle as bundles
from mbv3c.bundle import Golden
from mbv3c.errors import ModelError, ToolError
from mbv3c.feeds import Feed
from mbv3c.graphs.load import dtype_of, static_shape
from mbv3c.job import Job
from mbv3c.manifest import Manifest, TensorRecord
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u import c_source, vela
from mbv3c.targets.ethos_u.accepted import check_ends, check_types
from mbv3c.targets.ethos_u.devices import Knobs, NpuOptions, NpuTarget
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.device_graph import (
    device_graph,
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
from mbv3c.targets.ethos_u.memories import VELA_INI
from mbv3c.targets.ethos_u.placement import npu_part, placed
from mbv3c.targets.ethos_u.tflite import with_quantization
from mbv3c.targets.ethos_u.tuning.choose import Better, VelaChoices, better_choice
from mbv3c.targets.ethos_u.vela import Cost


def run_tosa(tosa: bytes, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
    """Run a TOSA file on inputs of N, H, W, C.

    Raises:
        ToolError: the reference model refuses the file, or these inputs.
    """
    import tosa_reference_model

    arrays = [np.ascontiguousarray(x) for x in inputs]
    try:
        with _silent():
            outputs, status = tosa_reference_model.run(tosa, arrays)
    except (ValueError, RuntimeError) as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ToolError(
            f"Arm's TOSA reference model does not run the network on inputs of {shapes}: {error}"
        ) from error
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
    check_ends(quantized, options)
    progress("partitioning and lowering to TOSA")
    partitions: dict[str, Partition] = {}

    def parts(mean: str) -> Partition:
        if mean not in partitions:
            partitions[mean] = partition(quantized, lowering(mean, target))
        return partitions[mean]

    roots = job.choices.roots if isinstance(job.choices, VelaChoices) else ()
    explain = options.compare_size
    better = None
    if target.vela_config is None:  # what `tune` keeps was estimated among vela's own memories
        better = better_choice(
            lambda mean: npu_part(parts(mean), explain=explain).tosa,
            target,
            options,
            roots,
            progress,
        )
    if better is not None:
        options = replace(options, knobs=better.knobs)
    chosen = parts(options.knobs.mean)
    npu_part(chosen, explain=explain)
    progress(f"compiling for {target.name} with vela")
    return NpuLowered(quantized, chosen, host_of(quantized, chosen), options, better)


def on_device(job: Job, quantized: onnx.ModelProto) -> frozenset[str] | None:
    """Name the nodes of a quantized model that the NPU computes; None if nothing is behind it.

    Raises:
        ModelError: the model cannot be imported.
    """
    options = job.options if isinstance(job.options, NpuOptions) else NpuOptions()
    parts = partition(device_graph(quantized), lowering(options.knobs.mean, npu_of(job)))
    if len(parts.regions) != 1 or parts.awaited or not parts.on_cpu:
        return None
    return frozenset(name for each in parts.regions[0].operators for name in each.nodes)


def build(
    lowered: NpuLowered, target: NpuTarget, folder: Path, x: Feed
) -> tuple[NpuBuilt, Golden, Cost | None]:
    """Have vela compile a lowered model and write it into a bundle.

    Returns what was built, the golden files of the input `x`, and what `--optimise size` would
    cost, where that was asked.

    Raises:
        Mbv3cError: the budget of SRAM is not kept, or vela fails.
    """
    tuned = lowered.better is not None
    output, least = _built(lowered.region, target, lowered.options, tuned=tuned)
    stream, golden = golden_of(lowered.region, lowered.options, x)
    _write(lowered, output, target, folder, stream)
    return NpuBuilt(lowered, output), golden, least


def golden_of(region: Region, options: NpuOptions, x: Feed) -> tuple[Golden, Golden]:
    """Return an input and what it gives: of the command stream, and as golden files have it."""
    integers = region.inputs[0].to_device(x)
    outputs = run_tosa(region.tosa, [integers])
    stream = Golden(integers, outputs, [0.0] * len(outputs), [False] * len(outputs))
    if not options.float_io:
        return stream, stream
    ends = zip(region.outputs, outputs, strict=True)
    return stream, replace(stream, input=x, outputs=[end.to_model(y) for end, y in ends])


def npu_of(job: Job) -> NpuTarget:
    """Return the device of a job."""
    assert isinstance(job.target, NpuTarget)
    return job.target


def lowering(mean: str, target: NpuTarget) -> LoweringOptions:
    """Return how a network is lowered for a device."""
    return LoweringOptions(mean, target.interpolates)


def host_of(quantized: onnx.ModelProto, parts: Partition) -> onnx.ModelProto | None:
    """Return what comes behind the NPU, or beside it as outputs that are constant; else None."""
    stored = {tensor.name for tensor in quantized.graph.initializer}
    constant = any(output.name in stored for output in quantized.graph.output)
    return host_part(quantized, npu_part(parts).outputs) if parts.on_cpu or constant else None


def _built(
    region: Region, target: NpuTarget, options: NpuOptions, *, tuned: bool
) -> tuple[vela.VelaOutput, Cost | None]:
    knobs, budget = options.knobs, options.sram_bytes
    built = compiled_by_vela(region.tosa, target, knobs, budget, tuned=tuned)
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


def _write(
    lowered: NpuLowered,
    output: vela.VelaOutput,
    target: NpuTarget,
    folder: Path,
    golden: Golden,
) -> None:
    region, options = lowered.region, lowered.options
    models = {bundles.QUANTIZED: lowered.quantized, bundles.NPU_HOST: lowered.host}
    for name, model in models.items():
        if model is not None:
            (folder / name).write_bytes(model.SerializeToString(deterministic=True))
    (folder / TOSA).write_bytes(region.tosa)
    described = with_quantization(output.tflite, region.inputs, region.outputs)
    (folder / TFLITE).write_bytes(described)
    (folder / bundles.NPU_STREAM).write_bytes(output.raw)
    if target.vela_config is not None:
        (folder / VELA_INI).write_text(target.vela_config)
    program = c_source.program_of(c_source.read_layout(output.raw), target, options, region)
    for name, text in c_source.texts(program, golden).items():
        (folder / name).write_text(text)


def compiled_by_vela(
    tosa: bytes, target: NpuTarget, knobs: Knobs, budget: int | None, *, tuned: bool
) -> vela.VelaOutput:
    """Have vela compile a TOSA file with the choices of a bundle.

    A tuned choice is built exactly as it was estimated; that it fits was looked up.

    Raises:
        Mbv3cError: vela fails.
    """
    return vela.build(tosa, target, knobs, None if tuned else budget)


def complete(manifest: Manifest, built: NpuBuilt, target: NpuTarget) -> NpuManifest:
    """Add to a manifest what an NPU bundle says of itself."""
    lowered, output = built.lowered, built.output
    region, host, options = lowered.region, lowered.host, lowered.options
    layout = c_source.read_layout(output.raw)
    on_cpu = lowered.parts.on_cpu if host is not None else ()
    ends = lowered.parts.ends if options.float_io else ()
    npu = NpuRecord(
        inputs=ends_of(region.inputs, layout.inputs),
        outputs=ends_of(region.outputs, layout.outputs),
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
        prefix=options.prefix,
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
            TensorRecord(output.name, tuple(static_shape(output) or ()), str(dtype_of(output)))
            for output in lowered.host.graph.output
        )
    outputs = lowered.region.outputs
    return tuple(TensorRecord(end.name, tuple(end.shape), dtype) for end in outputs)


def ends_of(
    boundaries: Sequence[Boundary], places: Sequence[tuple[int, int]]
) -> tuple[EndRecord, ...]:
    """Say where inputs or outputs lie, as region and offset, and what their integers mean."""
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
