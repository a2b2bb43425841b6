"""The line for the NPU: quantize → partition → TOSA → vela → bundle → verify."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from mbv3c import bundle as bundles
from mbv3c.atomic import need_space, new_folder
from mbv3c.errors import ModelError, ParityError, UsageError
from mbv3c.graphs.load import model_input, static_shape
from mbv3c.parity.inputs import parity_inputs
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.quantize import quantize_once
from mbv3c.targets.ethos_u import c_source as ethos_u_source
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.devices import NpuTarget, find_npu
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.host import host_part
from mbv3c.targets.ethos_u.lowering.partition import CONVERSIONS, partition
from mbv3c.targets.ethos_u.lowering.region import Partition, Region
from mbv3c.targets.ethos_u.manifest import Made, describe
from mbv3c.targets.ethos_u.options import Knobs, NpuOptions, check_knobs
from mbv3c.targets.ethos_u.tools import require_npu_tools
from mbv3c.targets.ethos_u.tosa_model import run_tosa
from mbv3c.targets.ethos_u.tuning.choose import better_choice
from mbv3c.targets.ethos_u.vela import Cost, VelaOutput
from mbv3c.targets.ethos_u.verdict import NpuParity
from mbv3c.targets.ethos_u.verify import check

Progress = Callable[[str], None]

TOSA = "model.tosa"
TFLITE = "model_vela.tflite"
RAW = bundles.NPU_STREAM

_TEMPORARY_COPIES = 8
_OTHER_BYTES = 16 << 20


@dataclass(frozen=True)
class NpuCompiled:
    """What was made.

    Attributes:
        path: the bundle.
        manifest: what it says of itself, but for the hashes.
        alternatives: estimates of other choices, by their names.
    """

    path: Path
    manifest: dict[str, Any]
    alternatives: dict[str, Cost]


def compile_npu(
    model: onnx.ModelProto,
    target: NpuTarget,
    output: Path,
    calibration: Calibration | None = None,
    options: NpuOptions | None = None,
    *,
    force: bool = False,
    verify: bool = True,
    progress: Progress,
) -> NpuCompiled:
    """Compile a model to a bundle, whole or not at all.

    A model with QDQ pairs is taken as it is; of any other the ranges come from `calibration`, or,
    said loudly, from random inputs.

    Raises:
        ParityError: a step does not compute what the one before it does; nothing is written.
        ModelError: the network cannot be quantized, or not all of it fits the NPU.
        ToolError: the NPU's tools are missing or fail.
        Mbv3cError: anything else that is wrong.
    """
    options = options or NpuOptions()
    require_npu_tools()
    check_knobs(options.knobs, target)
    bundles.check_replaceable(output)
    need_space(output, _TEMPORARY_COPIES * model.ByteSize() + _OTHER_BYTES)
    check_image(model)
    with new_folder(output, force=force) as folder:
        quantized, report = quantize_once(model, calibration, None, progress)
        check_types(quantized, target)
        progress("partitioning and lowering to TOSA")
        lowered = _Lowered(quantized, target)
        better = better_choice(lambda mean: lowered.region(mean).tosa, target, options, progress)
        if better is not None:
            options = replace(options, knobs=better.knobs)
        parts, region = lowered.parts(options.knobs.mean), lowered.region(options.knobs.mean)
        host = host_of(quantized, parts)
        progress(f"compiling for {target.name} with vela")
        built, least = _built(region, target, options, tuned=better is not None)
        made = Made(model, quantized, parts, host, built, better)
        _write(folder, made, target, options)
        parity = None
        if verify:
            progress("comparing fp32, QDQ, TOSA and command stream, step by step")
            raw = folder / RAW
            parity = check(
                model,
                quantized,
                region,
                region.tosa,
                raw,
                host,
                interpreted=target.interpreted,
            )
            if not parity.passed:
                raise ParityError(
                    f"{output.name} does not compute what the model computes: "
                    f"{'; '.join(parity.missed)}; nothing was written (--no-verify writes the "
                    "bundle all the same)",
                    parity.to_json(),
                )
        contents = describe(made, target, options, report, parity)
        bundles.write_manifest(folder, contents)
    alternatives = {"optimise size": least} if least is not None else {}
    return NpuCompiled(output, contents, alternatives)


class _Lowered:
    """A quantized network, lowered once per way to compute means, when it is needed."""

    def __init__(self, quantized: onnx.ModelProto, target: NpuTarget) -> None:
        self._quantized, self._target = quantized, target
        self._parts: dict[str, Partition] = {}

    def parts(self, mean: str) -> Partition:
        if mean not in self._parts:
            self._parts[mean] = partition(self._quantized, lowering(mean, self._target))
        return self._parts[mean]

    def region(self, mean: str) -> Region:
        return npu_part(self.parts(mean))


def evaluate(
    quantized: onnx.ModelProto, target: NpuTarget, knobs: Knobs, sram_bytes: int | None = None
) -> tuple[Cost, bool]:
    """Return what a choice costs, cycles and SRAM by vela's estimate, and whether it is feasible.

    This is what a tuner calls; nothing is written.

    Raises:
        Mbv3cError: as `compile_npu` says.
    """
    require_npu_tools()
    check_knobs(knobs, target)
    region = npu_part(partition(quantized, lowering(knobs.mean, target)))
    return ethos_u.estimate(region.tosa, target, knobs, sram_bytes)


def verify_npu(path: Path) -> NpuParity:
    """Check a bundle, all of it from the files in the bundle.

    Raises:
        BundleError: it is damaged.
        ToolError: the NPU's tools are missing.
    """
    require_npu_tools()
    bundle = bundles.read_bundle(path)
    manifest = bundle.manifest
    target = find_npu(manifest["target"]["name"])
    quantized = onnx.load(path / bundles.QUANTIZED)
    how = lowering(manifest["npu"]["knobs"]["mean"], target)
    region = npu_part(partition(quantized, how))
    tosa = (path / TOSA).read_bytes()
    model, raw = onnx.load(bundle.model), path / RAW
    host = onnx.load(path / bundles.NPU_HOST) if manifest["host"] else None
    return check(model, quantized, region, tosa, raw, host, interpreted=target.interpreted)


def lowering(mean: str, target: NpuTarget) -> LoweringOptions:
    """Return how a network is lowered for a device."""
    return LoweringOptions(mean, target.interpolates)


def npu_part(parts: Partition) -> Region:
    """Return the only region of a network of which the NPU computes everything up to a cut.

    Raises:
        ModelError: it computes nothing, or waits for what it cannot compute; that is named.
    """
    if len(parts.regions) == 1 and not parts.awaited:
        return parts.regions[0]
    left = parts.awaited or parts.on_cpu
    named = [one for one in left if one.nodes and one.kind not in CONVERSIONS] or left
    shown = [f"{one.kind} ({one.name})" for one in named]
    more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    listed = f"{', '.join(shown[:12]) or 'everything'}{more}"
    if not parts.regions:
        raise ModelError(f"the NPU can compute nothing of this network: {listed}")
    raise ModelError(
        "the NPU computes a network from its input on, in one piece, and only what comes behind "
        f"that can stay on the CPU; in the middle there would be: {listed}; replace that, or use "
        "another target, such as arm_cpu with --precision int8"
    )


def check_types(quantized: onnx.ModelProto, target: NpuTarget) -> None:
    """Refuse a quantized model with integers other than int8.

    Raises:
        ModelError: there are some; the first is named.
    """
    zeros = {one.name: one.data_type for one in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        # Without a zero point ONNX quantizes to uint8.
        zero = zeros.get(node.input[2]) if len(node.input) > 2 else TensorProto.UINT8
        if zero not in (None, TensorProto.INT8):
            found = TensorProto.DataType.Name(zero).lower()
            raise ModelError(
                f"{target.name} computes activations of int8 here, and {node.input[0]} is of "
                f"{found} (node {node.name}); quantize with --activations int8, or onnxruntime's "
                "quantizer with activation_type=QuantType.QInt8"
            )


def host_of(quantized: onnx.ModelProto, parts: Partition) -> onnx.ModelProto | None:
    """Return what comes behind the NPU; None if nothing does."""
    return host_part(quantized, npu_part(parts).outputs) if parts.on_cpu else None


def check_image(model: onnx.ModelProto) -> None:
    """Refuse a model that does not take one image.

    Raises:
        UsageError: it takes another batch, or no image.
    """
    shape = static_shape(model_input(model))
    if shape is None or len(shape) != 4 or shape[0] != 1:
        raise UsageError(
            f"an Ethos-U computes one image, 1x3xHxW, at a time; the model's input is "
            f"{'x'.join(map(str, shape or ()))}; use --batch 1"
        )


def _built(
    region: Region, target: NpuTarget, options: NpuOptions, *, tuned: bool
) -> tuple[VelaOutput, Cost | None]:
    knobs, budget = options.knobs, options.sram_bytes
    # A tuned choice is built exactly as it was estimated; that it fits was looked up.
    built = ethos_u.build(region.tosa, target, knobs, None if tuned else budget)
    over = budget is not None and built.cost.sram_bytes > budget
    least = None
    if over or options.compare_size:
        small = replace(knobs, optimise="Size")
        least, _ = ethos_u.estimate(region.tosa, target, small, budget)
    if budget is not None and least is not None:
        ethos_u.check_budget(built.cost, least, target, budget)
    if built.cost.cpu_operators:
        left = [one.name for one in built.cost.layers if not one.on_npu]
        raise ModelError(f"vela leaves these operators to the CPU: {', '.join(left)}")
    return built, least


def _write(folder: Path, made: Made, target: NpuTarget, options: NpuOptions) -> None:
    (region,), built, float_io = made.parts.regions, made.built, options.float_io
    (folder / bundles.MODEL).write_bytes(made.model.SerializeToString(deterministic=True))
    (folder / bundles.QUANTIZED).write_bytes(made.quantized.SerializeToString(deterministic=True))
    if made.host is not None:
        (folder / bundles.NPU_HOST).write_bytes(made.host.SerializeToString(deterministic=True))
    (folder / TOSA).write_bytes(region.tosa)
    (folder / TFLITE).write_bytes(built.tflite)
    (folder / RAW).write_bytes(built.raw)
    layout = ethos_u_source.read_layout(built.raw)
    ends = (region.inputs, region.outputs)
    header = ethos_u_source.header(layout, target.name, *ends, float_io=float_io)
    (folder / ethos_u_source.HEADER).write_text(header)
    source = ethos_u_source.source(layout, *ends, float_io=float_io)
    (folder / ethos_u_source.SOURCE).write_text(source)
    (folder / bundles.GOLDEN_INPUT).parent.mkdir()
    x = parity_inputs(region.inputs[0].shape)[0]
    integers = region.inputs[0].to_device(x)
    np.save(folder / bundles.GOLDEN_INPUT, x if float_io else integers)
    files = bundles.output_files(folder / bundles.GOLDEN_OUTPUT)
    outputs = run_tosa(region.tosa, [integers])
    for end, y, file in zip(region.outputs, outputs, files, strict=False):
        np.save(file, end.to_model(y) if float_io else y)
    (folder / bundles.GOLDEN_TOLERANCE).write_text("0\n" * len(outputs))
