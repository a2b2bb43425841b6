"""The options that say how images are prepared and what classes are called."""

from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import all_of
from mbv3c.commands.places import FILE, OneOf
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from mbv3c.quantization.images import Overrides

_CHANNELS = 3

mean_option = click.option(
    "--mean",
    help="Subtract this mean from pixels of 0..1: 0.5, or for red, green, blue 0.485,0.456,0.406.",
)
std_option = click.option(
    "--std", help="Divide pixels of 0..1 by this standard deviation, one number or three."
)
shown_options = all_of(
    click.option("--resize", help="Scale the shorter side to so many pixels, or: stretch."),
    click.option("--crop", type=int, help="Take so many of them, in the middle."),
)
# All but --mean, which means something else to NPUs, too.
other_preparing_options = all_of(
    std_option,
    click.option(
        "--scale",
        type=float,
        help="Multiply pixels of 0..255 by this, before --mean and --std.  [default: 1/255]",
    ),
    click.option("--bgr", is_flag=True, default=None, help="Give channels as blue, green, red."),
    shown_options,
    click.option(
        "--layout", type=OneOf(["NCHW", "NHWC"]), help="Say which layout the model's input has."
    ),
)
# How images are prepared; `take_overrides` reads them.
preparing_options = all_of(mean_option, other_preparing_options)
labels_option = click.option(
    "--labels", type=FILE, help="Read names of classes from a text file, one in each line."
)
_PREPARING = ("mean", "std", "scale", "bgr", "resize", "crop", "layout")


def take_overrides(given: dict[str, Any], images: str = "", *, there: bool = True) -> "Overrides":
    """Take the options out of what was given, and read them.

    Where they need images, `images` is what names some, for the message, and `there` whether that
    was given.

    Raises:
        UsageError: an option is there and no images are, or a value makes no sense.
    """
    options = {name: given.pop(name, None) for name in _PREPARING}
    said = [name for name, value in options.items() if value is not None]
    if said and not there:
        raise UsageError(f"--{said[0]} belongs to {images}")
    return _overrides(options)


def take_labels(given: dict[str, Any]) -> tuple[str, ...]:
    """Take the names of the classes out of what was given; none without --labels.

    Raises:
        UsageError: the file cannot be read, or a line is empty.
    """
    path = given.pop("labels")
    if path is None:
        return ()
    from mbv3c.ends.labels import read_labels

    return read_labels(path)


def about_images(model: "onnx.ModelProto") -> dict[str, Any]:
    """Return the documented keys of how images are prepared, and of the classes' names."""
    from mbv3c.graphs.outputs import metadata_of, names_in
    from mbv3c.quantization.images import described

    names = names_in(metadata_of(model))
    return {"preprocessing": described(model), "class_names": None if names is None else [*names]}


def image_lines(about: dict[str, Any]) -> list[str]:
    """Say what `about_images` says; nothing of a model that takes no images."""
    from mbv3c.accuracy.report import prepared

    lines = []
    if about["preprocessing"] is not None:
        lines.append(f"images: {prepared(about['preprocessing'])}")
    if names := about["class_names"]:
        more = ", ..." if len(names) > _SHOWN_NAMES else ""
        lines.append(f"classes: {len(names)}, named {', '.join(names[:_SHOWN_NAMES])}{more}")
    return lines


_SHOWN_NAMES = 3


def _overrides(given: dict[str, Any]) -> "Overrides":
    from mbv3c.quantization.images import STRETCH, Overrides

    resize, scale = given["resize"], given["scale"]
    if resize not in (None, STRETCH):
        if not resize.isdecimal() or not int(resize):
            raise UsageError(f"--resize {resize!r} is neither a number of pixels nor {STRETCH}")
        resize = int(resize)
    mean, std = (_three(given[name], f"--{name}") for name in ("mean", "std"))
    if std is not None and 0 in std:
        raise UsageError("--std 0 is not possible: the image is divided by it")
    if scale is not None and not 0 < abs(scale) < float("inf"):
        raise UsageError(f"--scale {scale:g} is not possible: every image would be the same")
    return Overrides(mean, std, resize, given["crop"], given["layout"], scale, given["bgr"])


def _three(text: str | None, option: str) -> tuple[float, ...] | None:
    """Read one number for all channels, or one for each."""
    if text is None:
        return None
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    numbers = numbers * _CHANNELS if len(numbers) == 1 else numbers
    if len(numbers) != _CHANNELS or not all(abs(number) < float("inf") for number in numbers):
        raise UsageError(f"{option} {text!r} is not a number, nor three with commas between")
    return numbers
