"""What an NPU bundle says of itself."""

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import onnx

from mbv3c import __version__
from mbv3c import bundle as bundles
from mbv3c.graphs.load import model_input, static_shape
from mbv3c.quantization.report import QuantizationReport
from mbv3c.targets.ethos_u import c_source as ethos_u_source
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.lowering.host import host_operators
from mbv3c.targets.ethos_u.lowering.region import Boundary, Operator, Partition, Region
from mbv3c.targets.ethos_u.options import NpuOptions
from mbv3c.targets.ethos_u.tools import NPU_TOOLS
from mbv3c.targets.ethos_u.tuning.choose import Better
from mbv3c.targets.ethos_u.vela import VelaOutput, cost_json
from mbv3c.targets.ethos_u.verdict import NpuParity

PRECISION = "int8"

_RECORDED_TOOLS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", *NPU_TOOLS)


@dataclass(frozen=True)
class Made:
    """A model on its way to a bundle.

    Attributes:
        model: as given.
        quantized: with QDQ pairs.
        parts: that, partitioned, with one region.
        host: what comes behind the region; None if nothing does.
        built: the region, compiled.
        better: the choice of a tuning database that it was compiled with; None if by the user's.
    """

    model: onnx.ModelProto
    quantized: onnx.ModelProto
    parts: Partition
    host: onnx.ModelProto | None
    built: VelaOutput
    better: Better | None


def describe(
    made: Made,
    target: NpuTarget,
    options: NpuOptions,
    report: QuantizationReport | None,
    parity: NpuParity | None,
) -> dict[str, Any]:
    """Return the manifest but for the hashes."""
    model, host, parts, built = made.model, made.host, made.parts, made.built
    layout = ethos_u_source.read_layout(built.raw)
    given = model_input(model)
    (region,) = parts.regions
    ends = parts.ends if options.float_io else ()
    on_cpu = host_operators(made.quantized, host) if host is not None else []
    return {
        "mbv3c": __version__,
        "model": {
            "name": model.graph.name,
            "metadata": {entry.key: entry.value for entry in model.metadata_props},
        },
        "target": {
            "name": target.name,
            "macs": target.macs,
            "system_config": options.knobs.system_config or target.system_config,
            "memory_mode": options.knobs.memory_mode or target.memory_mode,
            "clock_mhz": target.clock_mhz,
        },
        "precision": PRECISION,
        "input": {
            "name": given.name,
            "shape": list(static_shape(given) or ()),
            "dtype": "float32" if options.float_io else "int8",
        },
        "outputs": _outputs(region, host, float_io=options.float_io),
        "host": bundles.NPU_HOST if host is not None else None,
        "calibration": _calibrated(report),
        "npu": {
            "inputs": [_end(*pair) for pair in zip(region.inputs, layout.inputs, strict=True)],
            "outputs": [_end(*pair) for pair in zip(region.outputs, layout.outputs, strict=True)],
            "constants_region": layout.constants_region,
            "scratch_bytes": {str(key): size for key, size in sorted(layout.scratch.items())},
            "command_stream_bytes": len(layout.commands),
            "constants_bytes": len(layout.constants),
            "knobs": options.knobs.to_json(),
            "tuned": made.better.to_json() if made.better else None,
            "sram_budget_bytes": options.sram_bytes,
            "placement": [_placed(one) for one in (*region.operators, *on_cpu, *ends)],
            "cost": cost_json(built.cost),
            "feasible": built.feasible,
        },
        "parity": parity.to_json() if parity else None,
        "tools": {name: metadata.version(name) for name in _RECORDED_TOOLS},
    }


def _outputs(
    region: Region, host: onnx.ModelProto | None, *, float_io: bool
) -> list[dict[str, Any]]:
    """Say what the whole gives: the NPU, or what comes behind it."""
    if host is not None:
        return [
            {"name": one.name, "shape": list(static_shape(one) or ()), "dtype": "float32"}
            for one in host.graph.output
        ]
    dtype = "float32" if float_io else "int8"
    return [{"name": one.name, "shape": list(one.shape), "dtype": dtype} for one in region.outputs]


def _calibrated(report: QuantizationReport | None) -> dict[str, Any]:
    """Say what a model was quantized by, if it was not quantized when it came."""
    if report is None:
        return {"source": "the model as given, which is quantized", "random_inputs": False}
    return {
        "source": report.calibration,
        "random_inputs": report.random_inputs,
        "calibrated_on": report.calibrated_on,
        "method": report.method,
    }


def _placed(one: Operator) -> dict[str, Any]:
    where = "npu" if one.on_npu else "cpu"
    placed = {"name": one.name, "nodes": list(one.nodes), "operator": one.kind, "on": where}
    return {**placed, "why": one.why} if one.why else placed


def _end(boundary: Boundary, place: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": boundary.name,
        "shape": list(boundary.device_shape),
        "layout": "NHWC",
        "dtype": "int8",
        "scale": boundary.quantization.scale,
        "zero_point": boundary.quantization.zero_point,
        "region": place[0],
        "offset": place[1],
    }
