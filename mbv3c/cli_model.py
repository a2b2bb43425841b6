"""The model that a command works on: the options that say which, and reading or building it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.cli_common import Command
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    import onnx


def batch_option(command: Command) -> Command:
    """Add --batch."""
    return click.option("--batch", type=int, help="Give MODEL this batch.")(command)


def opset_option(command: Command) -> Command:
    """Add --opset, of the model that is read."""
    return click.option("--opset", type=int, help="Convert MODEL to this opset, 11 to 18.")(
        command
    )


def force_option(command: Command) -> Command:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Write over what is there.")(command)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
    progress: Callable[[str], None],
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
