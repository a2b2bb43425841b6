"""The command `mbv3c run`."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mbv3c.commands.options import (
    PATH,
    echo,
    force_option,
    json_option,
    print_json,
)
from mbv3c.commands.places import BUNDLE, FILE
from mbv3c.commands.preparing import preparing_options, take_overrides
from mbv3c.commands.trusting import place_and_trust, running_options


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--input", "source", type=FILE, required=True, help=".npy, .npz or an image.")
@preparing_options
@click.option(
    "-o", "--output", type=PATH, help=".npy or .npz to write; without it, figures are printed."
)
@click.option("--raw", is_flag=True, help="Of a detector: its outputs as they are.")
@click.option(
    "--score-threshold", type=float, help="Least score of a detection.  [default: 0.001]"
)
@click.option("--nms-threshold", type=float, help="Most overlap in a class.  [default: 0.55]")
@click.option("--topk-candidates", type=int, help="Boxes of a class considered.  [default: 300]")
@click.option("--detections", type=int, help="Boxes of an image reported.  [default: 300]")
@running_options
@force_option
@json_option
def run(
    bundle: Path,
    source: Path,
    output: Path | None,
    raw: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run one inference on an array or an image.

    One output becomes a .npy file, several a .npz file with each by its name. Of a
    bundle that `compile --outputs top5` or `--labels` made, the best classes are printed, too.

    Without --output nothing is written: the least, the largest and the mean number of every output
    are printed, and where the largest is.

    A device or a pipe as --output, such as /dev/null, takes several outputs as one .npz.

    An image is prepared as `verify --images` does it.

    Of a detector the .npz holds boxes (left, top, right, bottom in pixels of the input), scores,
    labels and images (which image of the batch), after non-maximum suppression by class.
    """
    from mbv3c import inference
    from mbv3c.atomic import new_file, takes_bytes
    from mbv3c.errors import UsageError
    from mbv3c.execution.detection import Thresholds
    from mbv3c.inference import figures_of
    from mbv3c.quantization.images import IMAGES

    place, trust = place_and_trust(given)
    is_image = source.suffix.lower() in IMAGES
    preparing = take_overrides(given, "an image as --input", there=is_image)
    limits = {key: value for key, value in given.items() if value is not None}
    thresholds = Thresholds(**limits) if limits else None
    if force and output is None:
        raise UsageError("--force is for a file that is there: name it with --output")
    writing = nullcontext() if output is None else new_file(output, force=force)
    with writing as temporary:
        to = None
        if output is not None and temporary is not None:
            to = inference.Output(temporary, is_device=takes_bytes(output))
        ran = inference.run_bundle(
            bundle,
            source,
            to,
            raw=raw,
            thresholds=thresholds,
            place=place,
            preparing=preparing,
            trust=trust,
        )
    shapes = {name: list(array.shape) for name, array in ran.arrays.items()}
    first, *others = shapes.values()
    figures = {} if output else {name: figures_of(array) for name, array in ran.arrays.items()}
    if as_json:
        arrays = [
            {"name": name, "shape": shape, **figures.get(name, {})}
            for name, shape in shapes.items()
        ]
        only = None if others else first
        printed = {
            "output": None if output is None else str(output),
            "shape": only,
            "arrays": arrays,
            "ran_on": ran.ran_on,
        }
        if ran.classes:
            printed["classes"] = [asdict(one) for one in ran.classes]
        print_json(printed)
        return
    listed = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    echo(f"{output or bundle}: {', '.join(listed)}, computed on {ran.ran_on}")
    for name, row in figures.items():
        least, largest, mean = (
            "none" if row[key] is None else f"{row[key]:.6g}"
            for key in ("least", "largest", "mean")
        )
        peak = ", ".join(map(str, row["largest_at"]))
        echo(f"{name}: {row['dtype']}, {least} to {largest} (at {peak}), mean {mean}")
    several = len({one.image for one in ran.classes}) > 1
    for one in ran.classes:
        image = f"image {one.image}: " if several else ""
        echo(f"{image}{one.score:.4g}  class {one.index}  {one.label}".rstrip())
