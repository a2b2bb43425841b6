"""In what a network is computed: the options of `compile` and `tune` that say it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from mbv3c.quantization.calibration import Calibration
    from mbv3c.quantization.options import QuantizeOptions
    from mbv3c.targets.table import Target


@dataclass(frozen=True)
class Numbers:
    """In what a network is computed.

    Attributes:
        precision: one of `PRECISIONS`.
        folder: for int8: what to calibrate on; None for random inputs.
        quantizing: for int8: how to quantize; None for the usual way.
        keep_float: for fp16: names and patterns of layers that stay in fp32.
    """

    precision: str
    folder: Path | None
    quantizing: "QuantizeOptions | None"
    keep_float: tuple[str, ...]

    def calibration(self, model: "onnx.ModelProto") -> "Calibration | None":
        """Return the inputs of the folder for a model; None without a folder.

        Raises:
            CalibrationError: an input is broken, or does not fit the model.
        """
        from mbv3c.quantization.calibration import folder_inputs

        return folder_inputs(model, self.folder) if self.folder is not None else None


def precision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --precision, --calibration and --keep-float."""
    options = [
        click.option("--precision", help="fp32, fp16 or int8.  [default: fp32, on npu int8]"),
        click.option(
            "--calibration",
            type=click.Path(path_type=Path),
            help="For int8: folder of images (.jpg, .png) or arrays (.npy, .npz) to take ranges "
            "from.",
        ),
        click.option(
            "--keep-float",
            help="Layers that stay in fp32: for int8 as `quantize` takes it, for fp16 names or "
            "patterns.",
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def read_numbers(
    target: "Target", precision: str | None, calibration: Path | None, keep_float: str | None
) -> Numbers:
    """Read the options, before any work is done.

    Raises:
        UsageError: they do not go together, the target's processor does not compute in that
            precision, or there is nothing in the folder.
    """
    precision = precision or "fp32"
    if precision != "int8" and calibration is not None:
        raise UsageError("--calibration is for --precision int8")
    if precision == "fp32" and keep_float is not None:
        raise UsageError("--keep-float is for --precision int8 and fp16")

    from mbv3c.quantization import options
    from mbv3c.quantization.calibration import calibration_files
    from mbv3c.targets.cores import check_precision

    check_precision(target, precision)
    quantizing = None
    names: tuple[str, ...] = ()
    if keep_float is not None and precision == "int8":
        quantizing = options.from_given({"keep_float": options.parse_keep_float(keep_float)})
    elif keep_float is not None:
        names = tuple(filter(None, keep_float.split(",")))
    if calibration is not None:
        calibration_files(calibration)
    return Numbers(precision, calibration, quantizing, names)
