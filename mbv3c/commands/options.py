"""What the commands share: options, reading or building a model, progress, JSON on stdout."""

import functools
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c import steps
from mbv3c.atomic import descriptor_of
from mbv3c.commands.loudness import is_quiet, is_verbose, set_by_file
from mbv3c.commands.places import FILE, FOLDER, PRECISION, boards_named
from mbv3c.commands.wrapping import fitted
from mbv3c.errors import UsageError
from mbv3c.quoting import for_terminal

if TYPE_CHECKING:
    import onnx

    from mbv3c.execution.device.place import Place
    from mbv3c.graphs.input_shapes import InputShape
    from mbv3c.graphs.spec import ModelSpec
    from mbv3c.quantization.calibration_files import Sampling
    from mbv3c.targets.backend import Description


PATH = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

batch_option = click.option("--batch", type=int, help="Give MODEL this batch.")
opset_option = click.option("--opset", type=int, help="Convert MODEL to this opset, 11 to 18.")
force_option = click.option("--force", is_flag=True, help="Write over what is there.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
)


def all_of(*options: Decorator) -> Decorator:
    """Return what adds several options to a command, in their order."""
    return lambda command: functools.reduce(lambda made, add: add(made), options[::-1], command)


def taken(given: dict[str, Any], *names: str) -> dict[str, Any]:
    """Take some options out of what a command was given."""
    return {name: given.pop(name) for name in names}


# Which network to build, but for its batch and its weights.
network_options = all_of(
    click.option(
        "--network",
        help="Build mobilenet_v3, mobilenet_v2, mnasnet_a1 or mnasnet_b1.  [default: "
        "mobilenet_v3]",
    ),
    click.option(
        "--architecture",
        type=FILE,
        help="Read the layers of a network of your own from a .json file.",
    ),
    click.option("--variant", help="For mobilenet_v3, choose large or small.  [default: large]"),
    click.option(
        "--width", type=float, help="Multiply channels by 0.35 to 1.25 (others 1.4).  [default: 1]"
    ),
    click.option(
        "--width-rule",
        help="Round widths as torchvision or tensorflow does.  [default: torchvision]",
    ),
    click.option("--padding", help="Pad symmetric or same (TensorFlow).  [default: symmetric]"),
    click.option(
        "--minimalistic", is_flag=True, default=None, help="Leave out SE; take only ReLU and 3x3."
    ),
    click.option(
        "--dilated", is_flag=True, default=None, help="Give the trunk an output stride of 16."
    ),
    click.option(
        "--reduced-tail", is_flag=True, default=None, help="Halve the channels of the last stage."
    ),
    click.option(
        "--bn-epsilon",
        type=float,
        help="Add so much to variances; 1e-5 for timm's own weights.  [default: 1e-3; 1e-5 "
        "of other networks]",
    ),
    click.option(
        "--head",
        help="Choose classify, lraspp or raspp (segmentation), ssdlite (detection).  "
        "[default: classify]",
    ),
    click.option(
        "--lraspp-pool",
        help="Pool by global, or by paper: windows of 49x49, other above 784 pixels.  "
        "[default: global]",
    ),
    click.option(
        "--resolution",
        type=int,
        help="Take images of this side: 32 to 512 by 32, 224 by default; (l)raspp 96 to "
        "2048; ssdlite 320.",
    ),
    click.option(
        "--classes",
        type=int,
        help="Give so many classes: 1000 by default; 21 for (l)raspp; 91 for ssdlite, "
        "background included.",
    ),
)
weights_option = click.option(
    "--weights",
    type=FILE,
    help="Take trained weights: torchvision's or timm's state dict, .npz or .onnx.",
)
# Which network to build.
model_options = all_of(
    network_options,
    click.option(
        "--batch",
        type=int,
        help="Take so many images in an inference, also for a MODEL.  [default: 1]",
    ),
    click.option("--seed", type=int, help="Draw the weights from this seed.  [default: 0]"),
    weights_option,
)


def built_or_loaded(
    path: Path | None, spec: dict[str, Any], progress: Callable[[str], None]
) -> "onnx.ModelProto":
    """Read a model, or without one build what the options of `build` say.

    Raises:
        UsageError: the options do not go together.
        ModelError: the model cannot be used.
    """
    shape = {name: spec.pop(name, None) for name in ("input_shape", "opset", "input_shapes")}
    shapes = shape.pop("input_shapes") or ()
    if len(shapes) and (shape["input_shape"] or spec["batch"] is not None):
        raise UsageError("--input-shapes says all shapes: leave --input-shape and --batch out")
    if len(shapes) and path is None:
        raise UsageError("--input-shapes belongs to a MODEL; use --resolution and --batch instead")
    if path is not None:
        shape["batch"] = spec.pop("batch")
        given = [f"--{key.replace('_', '-')}" for key, value in spec.items() if value is not None]
        if given:
            raise UsageError(
                f"{', '.join(given)} cannot be combined with a MODEL: they say which one to build"
            )
        progress(f"reading {path}")
        first = shapes[0] if shapes else None
        return load_given(path, **shape, parsed=first)
    if shape["input_shape"] is not None:
        raise UsageError("--input-shape belongs to a MODEL; use --resolution and --batch instead")
    if shape["opset"] is not None:
        raise UsageError("--opset belongs to a MODEL; what mbv3c builds needs none")
    progress("building the graph")
    return built(spec)


def built(spec: dict[str, Any]) -> "onnx.ModelProto":
    """Build what the options of `model_options` say.

    Raises:
        UsageError: the options do not go together.
    """
    from mbv3c.graphs.builder import build_model

    return build_model(*spec_of(spec))


def spec_of(spec: dict[str, Any]) -> "tuple[ModelSpec, Path | None]":
    """Return what the options of `model_options` say, and the file of weights.

    Raises:
        UsageError: the options do not go together.
    """
    from mbv3c.graphs.spec import completed

    given = {key: value for key, value in spec.items() if value is not None}
    weights = given.pop("weights", None)
    if weights is not None and "seed" in given:
        raise UsageError("--seed and --weights exclude each other: both say which weights")
    return completed(given), weights


def load_given(
    path: Path,
    input_shape: str | None = None,
    batch: int | None = None,
    opset: int | None = None,
    parsed: "InputShape | None" = None,
) -> "onnx.ModelProto":
    """Read a model and fix its shapes, by the text of an option or as it was parsed before.

    Raises:
        UsageError: the shape is none, or does not fit.
        ModelError: the model cannot be used.
    """
    from mbv3c.graphs.load import load_model

    model = load_model(path, parse_shape(input_shape) if input_shape else parsed, batch)
    if opset is None:
        return model
    from mbv3c.parity.rewriting import in_opset

    return in_opset(model, opset)[0]


def parse_shapes(texts: Sequence[str]) -> "tuple[InputShape, ...]":
    """Read the values of --input-shapes: several shapes in one, or one each.

    Shapes of one input are apart by spaces; sets of shapes with names by semicolons.

    Raises:
        UsageError: something is no shape.
    """
    shapes: list[InputShape] = []
    for part in (part for text in texts for part in text.split(";")):
        one_by_one = [part] if ":" in part else part.split()
        shapes += [parse_shape(each) for each in one_by_one]
    if texts and not shapes:
        raise UsageError(
            '--input-shapes is empty; write the shapes, apart by spaces, like "224x224 320x320"'
        )
    return tuple(shapes)


def parse_shape(text: str) -> "InputShape":
    """Read a shape, or several as NAME:SHAPE, apart by spaces; a name may have colons itself."""
    if ":" not in text:
        return _parse_extents(text)
    pairs = re.findall(r"\s*(.+?):([\dx,]+)(?=\s|$)", text)
    if not pairs or "".join(":".join(pair) for pair in pairs) != re.sub(
        r"(:[\dx,]+)\s+", r"\1", text.strip()
    ):
        raise UsageError(
            f"--input-shape {text!r} names no shapes; write 'image:1,3,224,224 vector:1,8'"
        )
    return {name: _parse_extents(extents) for name, extents in pairs}


def _parse_extents(text: str) -> list[int]:
    try:
        shape = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise UsageError(
            f"--input-shape {text!r} is no shape; write it like 1,3,224,224, or for several "
            "inputs like 'image:1,3,224,224 vector:1,8'"
        )
    return shape


# On which device to run; `place_of` reads them, and --key.
place_options = all_of(
    click.option("--device", help="Run on the device that HOST:PORT serves."),
    click.option("--tracker", help="Run on a device of the tracker at HOST:PORT."),
    click.option("--secret", type=FILE, help="Read the secret that its server wants from a file."),
    click.option(
        "--timeout", type=float, help="Give the device so many seconds for a step.  [default: 60]"
    ),
)
device_options = all_of(
    place_options,
    click.option("--key", help="Choose a device of the tracker; see `mbv3c device list`."),
)


def place_of(given: dict[str, Any]) -> "Place | None":
    """Take `device_options` out of what was given and return where to run; None to run here.

    Raises:
        UsageError: the options do not go together.
    """
    from mbv3c.execution.device.place import parse_place

    return parse_place(**taken(given, "device", "tracker", "key", "timeout", "secret"))


# How many files of --calibration; `take_sampling` reads them.
sampling_options = all_of(
    click.option(
        "--calibration-limit",
        type=int,
        help="Take a sample of so many files, evenly from the folders in the folder.  [default: "
        "all; 256 where there are such folders]",
    ),
    click.option(
        "--calibration-seed", type=int, help="Draw that sample from this seed.  [default: 0]"
    ),
)


def take_sampling(given: dict[str, Any]) -> "Sampling":
    """Take `sampling_options` out of what was given.

    Raises:
        UsageError: a value makes no sense.
    """
    from mbv3c.quantization.calibration_files import Sampling

    limit, seed = taken(given, "calibration_limit", "calibration_seed").values()
    return Sampling(limit, seed or 0)


# In which precision.
precision_options = all_of(
    click.option(
        "--precision",
        type=PRECISION,
        help="Compute in fp32, fp16, bf16 or int8.  [default: fp32, on npu int8]",
    ),
    click.option(
        "--calibration",
        type=FOLDER,
        help="For int8, take ranges from a folder of images (.jpg, .png) or arrays (.npy, .npz).",
    ),
    click.option(
        "--keep-float",
        help="Leave layers in fp32: for int8 as `quantize` takes it, for fp16 names or patterns.",
    ),
    sampling_options,
)


class Progress:
    """Prints each step to stderr when it starts, with the time since the command began.

    First it says which options are a project file's, and which targets the boards have that were
    named. With --quiet only warnings are printed; with --verbose what was used so far, too.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        for known in (*set_by_file(), *boards_named()):
            self(known)

    def __call__(self, step: str) -> None:
        steps.say(step)
        if is_quiet() and not step.lower().startswith("warning"):
            return
        used = f", {_used()}" if is_verbose() else ""
        echo(f"[{time.monotonic() - self._start:5.1f} s{used}] {step}", err=True)


def _used() -> str:
    """Say how much processor time and memory this process has taken."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return f"{usage.ru_utime + usage.ru_stime:.1f} s of processor, {usage.ru_maxrss >> 10} MiB"


def echo(text: str, *, err: bool = False) -> None:
    """Print lines for people; names from models and devices do nothing to the terminal."""
    err = err or _stdout_is_taken()
    click.echo(fitted(for_terminal(text), sys.stderr if err else sys.stdout), err=err)


def echo_styled(word: str, color: str, rest: str) -> None:
    """Print a line whose first word has a color, or is bold without one, in a terminal."""
    err = _stdout_is_taken()
    text = fitted(f"{word}{for_terminal(rest)}", sys.stderr if err else sys.stdout)[len(word) :]
    if not os.environ.get("NO_COLOR"):  # no-color.org
        word = click.style(word, fg=color or None, bold=True)
    click.echo(f"{word}{text}", err=err)


def echo_event(event: dict[str, Any]) -> None:
    """Print an event as a line of JSON on stderr, unless --quiet says not to."""
    if not is_quiet():
        click.echo(json.dumps(event), err=True)


def print_json(document: dict[str, Any]) -> None:
    """Print the one document of a command with --json."""
    click.echo(json.dumps(document, indent=2, allow_nan=False), err=_stdout_is_taken())


def _stdout_is_taken() -> bool:
    """Say whether the command that runs was given stdout as a file, and so prints to stderr."""
    context = click.get_current_context(silent=True)
    given = context.params.values() if context is not None else ()
    return any(isinstance(one, Path) and descriptor_of(one) == 1 for one in given)


def print_description(description: "Description", *, as_json: bool) -> None:
    """Print what a backend says: as one JSON document, or as lines for people."""
    if as_json:
        print_json(description.document)
        return
    echo("\n".join(description.lines))
