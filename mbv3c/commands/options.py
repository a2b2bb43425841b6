"""The model that a command works on: the options that say which, and reading or building it."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from mbv3c.commands.output import Command
    from mbv3c.execution.device.place import Place
    from mbv3c.job import Target
    from mbv3c.quantization.calibration import Calibration
    from mbv3c.quantization.options import QuantizeOptions


def batch_option(command: "Command") -> "Command":
    """Add --batch."""
    return click.option("--batch", type=int, help="Give MODEL this batch.")(command)


def opset_option(command: "Command") -> "Command":
    """Add --opset, of the model that is read."""
    return click.option("--opset", type=int, help="Convert MODEL to this opset, 11 to 18.")(
        command
    )


def force_option(command: "Command") -> "Command":
    """Add --force."""
    return click.option("--force", is_flag=True, help="Write over what is there.")(command)


def model_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Add the options that say which MobileNetV3 to build."""
    options = [
        click.option("--variant", help="large or small.  [default: large]"),
        click.option("--width", type=float, help="Width multiplier, 0.35 to 1.25.  [default: 1]"),
        click.option("--width-rule", help="torchvision or tensorflow.  [default: torchvision]"),
        click.option("--padding", help="symmetric or same (TensorFlow).  [default: symmetric]"),
        click.option("--minimalistic", is_flag=True, default=None, help="No SE, ReLU, 3x3."),
        click.option("--dilated", is_flag=True, default=None, help="Output stride 16."),
        click.option("--reduced-tail", is_flag=True, default=None, help="Half the last stage."),
        click.option(
            "--bn-epsilon", type=float, help="1e-5 for timm's own weights.  [default: 1e-3]"
        ),
        click.option(
            "--head",
            help="classify, lraspp (segmentation) or ssdlite (detection).  [default: classify]",
        ),
        click.option(
            "--lraspp-pool",
            help="global, or paper: windows of 49x49, other above 784 pixels.  [default: global]",
        ),
        click.option(
            "--resolution",
            type=int,
            help="Input side: 96 to 512 by 32, 224 by default; lraspp up to 2048; ssdlite 320.",
        ),
        click.option(
            "--classes",
            type=int,
            help="1000 by default; 21 for lraspp; 91 for ssdlite, background included.",
        ),
        click.option(
            "--batch", type=int, help="Images per inference, of a MODEL, too.  [default: 1]"
        ),
        click.option("--seed", type=int, help="Seed of the weights.  [default: 0]"),
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="Trained weights: torchvision's or timm's state dict, .npz or .onnx.",
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def built_or_loaded(
    path: Path | None,
    spec: dict[str, Any],
    input_shape: str | None,
    opset: int | None,
    progress: "Callable[[str], None]",
) -> "onnx.ModelProto":
    """Read a model, or without one build what the options of `build` say.

    Raises:
        UsageError: the options do not go together.
        ModelError: the model cannot be used.
    """
    if path is not None:
        batch = spec.pop("batch")
        given = [f"--{key.replace('_', '-')}" for key, value in spec.items() if value is not None]
        if given:
            raise UsageError(
                f"{', '.join(given)} cannot be combined with a MODEL: they say which one to build"
            )
        progress(f"reading {path}")
        return load_given(path, input_shape, batch, opset)
    if input_shape is not None:
        raise UsageError("--input-shape belongs to a MODEL; use --resolution and --batch instead")
    if opset is not None:
        raise UsageError("--opset belongs to a MODEL; what mbv3c builds needs none")
    progress("building the graph")
    return built(spec)


def built(spec: dict[str, Any]) -> "onnx.ModelProto":
    """Build what the options of `model_options` say.

    Raises:
        UsageError: the options do not go together.
    """
    from mbv3c.graphs.builder import build_model
    from mbv3c.graphs.spec import HEAD_TRAITS, ModelSpec

    given = {key: value for key, value in spec.items() if value is not None}
    weights = given.pop("weights", None)
    if weights is not None and "seed" in given:
        raise UsageError("--seed and --weights exclude each other: both say which weights")
    head = HEAD_TRAITS.get(given.get("head", "classify"))
    if head is not None:
        given.setdefault("classes", head.classes)
        given.setdefault("resolution", head.resolution)
    return build_model(ModelSpec(**given), weights)


def load_given(
    path: Path, input_shape: str | None, batch: int | None, opset: int | None = None
) -> "onnx.ModelProto":
    """Read a model and fix its shapes.

    Raises:
        UsageError: the shape is none, or does not fit.
        ModelError: the model cannot be used.
    """
    from mbv3c.graphs.load import load_model

    model = load_model(path, _parse_shape(input_shape) if input_shape else None, batch)
    if opset is None:
        return model
    from mbv3c.parity.conversion import in_opset

    return in_opset(model, opset)[0]


def _parse_shape(text: str) -> list[int]:
    try:
        shape = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {text!r} is no shape; write it like 1,3,224,224")
    return shape


def device_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Add the options that say on which device to run; `place_of` reads them."""
    options = [
        click.option("--device", help="Run on the device that HOST:PORT serves."),
        click.option("--tracker", help="Run on a device of the tracker at HOST:PORT."),
        click.option("--key", help="Which device of the tracker; see `mbv3c device list`."),
        click.option(
            "--timeout", type=float, help="Seconds that the device has for a step.  [default: 60]"
        ),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def place_of(
    device: str | None, tracker: str | None, key: str | None, timeout: float | None
) -> "tuple[Place, float] | None":
    """Return where to run, and the seconds for a step; None to run here.

    Raises:
        UsageError: the options do not go together.
    """
    from mbv3c.errors import UsageError
    from mbv3c.execution.device.place import parse_place

    place = parse_place(device, tracker, key)
    if place is None:
        if timeout is not None:
            raise UsageError("--timeout belongs to --device or --tracker")
        return None
    from mbv3c.execution.device.runner import DEFAULT_SECONDS

    return place, DEFAULT_SECONDS if timeout is None else timeout


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


def precision_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
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
    from mbv3c.targets.cpu.cores import check_precision

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
