"""What a bundle says of itself."""

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mbv3c import __version__
from mbv3c import bundle as bundles
from mbv3c.execution.runners import Tensor
from mbv3c.graphs.load import input_shape_of, model_input
from mbv3c.job import Target
from mbv3c.parity.compare import Parity, with_pooled_spread
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.passes import PassReport
from mbv3c.quantization.report import QuantizationReport
from mbv3c.targets.cpu import library as cpu

_RECORDED_TOOLS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "onnxsim", "ziglang")


def _describe_quantization(report: QuantizationReport | None) -> dict[str, Any] | None:
    """Say what a bundle's quantized model came from; None if we did not make it."""
    if report is None:
        return None
    return {
        "model": bundles.QUANTIZED,
        "calibration": report.calibration,
        "random_inputs": report.random_inputs,
        "method": report.method,
        "layers_in_fp32": [one.name for one in report.layers if one.kept_float is not None],
    }


def _write_golden(
    folder: Path, x: Tensor, references: list[list[ReferenceOutput]], precision: str
) -> None:
    tolerance = TOLERANCES[precision]
    first = with_pooled_spread(references, tolerance)[0]
    (folder / bundles.GOLDEN_INPUT).parent.mkdir()
    np.save(folder / bundles.GOLDEN_INPUT, x)
    files = bundles.output_files(folder / bundles.GOLDEN_OUTPUT)
    for reference, file in zip(first, files, strict=False):
        np.save(file, reference.output)
    allowed = [tolerance.allowed(reference.spread, reference.step) for reference in first]
    (folder / bundles.GOLDEN_TOLERANCE).write_text("".join(f"{one:.9g}\n" for one in allowed))


def _describe(
    model: onnx.ModelProto,
    target: Target,
    precision: str,
    reports: list[PassReport],
    golden: list[ReferenceOutput],
    parity: Parity | None,
) -> dict[str, Any]:
    resolved = cpu.resolve(target)
    return {
        "mbv3c": __version__,
        "model": {"name": model.graph.name, "metadata": _metadata(model)},
        "target": {
            "name": target.name,
            "triple": resolved.triple,
            "cpu": resolved.cpu,
            "cores": resolved.cores,
        },
        "precision": precision,
        "input": {
            "name": model_input(model).name,
            "shape": list(input_shape_of(model)),
            "dtype": "float32",
        },
        "outputs": [
            {
                "name": reference.name,
                "shape": list(reference.output.shape),
                "dtype": str(reference.output.dtype),
            }
            for reference in golden
        ],
        "passes": [
            {"name": r.name, "matched": len(r.matched), "refused": len(r.refused)} for r in reports
        ],
        "parity": parity.to_json() if parity else None,
        "tools": {name: metadata.version(name) for name in _RECORDED_TOOLS},
    }


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}
