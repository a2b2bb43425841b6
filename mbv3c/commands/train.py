"""The command `mbv3c train`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import (
    PATH,
    Progress,
    built,
    echo,
    echo_event,
    force_option,
    json_option,
    load_given,
    network_options,
    print_json,
    taken,
    weights_option,
)
from mbv3c.commands.options_images import (
    augment_option,
    augmentations,
    batch_option,
    labels_option,
    limit_option,
)
from mbv3c.commands.places import IMAGES, MODEL
from mbv3c.commands.preparing import mean_option, shown_options, std_option, take_overrides
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from mbv3c.training.session import Event, Report

_EMPTY_SHOWN = 5
_LINE_SECONDS = 10.0  # between lines of progress
_PLANNED = (
    *("steps", "batch", "rate", "warmup", "decay", "smoothing", "average", "augment", "seed"),
    *("fresh", "threads", "device"),
)


@click.command()
@click.argument("model", type=MODEL, required=False)
@click.option(
    "--data",
    type=IMAGES,
    required=True,
    help="Train with a folder of class folders, .npz, or IDX.",
)
@click.option("-o", "--output", type=PATH, required=True, help="Write this .onnx file.")
@labels_option
@click.option(
    "--validation",
    help="Validate with this share of each class, or another --data.  [default: 0.1]",
)
@click.option(
    "--test", help="Test with such a share, or other data, at the end.  [default: what --data has]"
)
@limit_option
@click.option("--epochs", type=float, help="Go through the images so many times.  [default: 10]")
@click.option("--steps", type=int, help="Train for so many steps, instead of epochs.")
@batch_option
@click.option("--rate", type=float, help="Learn at this rate at most.  [default: 0.2]")
@click.option(
    "--warmup",
    type=int,
    help="Reach it after so many steps.  [default: a fifth, 500 at most]",
)
@click.option("--decay", type=float, help="Decay weights by this.  [default: 4e-5]")
@click.option("--smoothing", type=float, help="Smooth labels by this.  [default: 0.1]")
@click.option(
    "--average",
    type=float,
    help="Average weights with this decay; 0: do not.  [default: 0.999]",
)
@augment_option
@click.option(
    "--seed", type=int, help="Draw weights, order and parts from this seed.  [default: 0]"
)
@click.option("--fresh", is_flag=True, default=None, help="Begin with fresh weights.")
@click.option("--new-head", is_flag=True, help="Replace the last layer for the data's classes.")
@click.option("--threads", type=int, help="Give torch so many threads.  [default: 1]")
@click.option("--device", help="Train on cpu or cuda.  [default: cpu]")
@click.option("--keep-state", is_flag=True, help="Leave OUTPUT.train when all is done.")
@mean_option
@std_option
@shown_options
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@network_options
@weights_option
@force_option
@json_option
def train(
    model: Path | None,
    data: Path,
    output: Path,
    labels: Path | None,
    limit: int | None,
    epochs: float | None,
    new_head: bool,
    keep_state: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a classifier on your images, and write it as an ONNX file.

    Without MODEL, what the options of `build` say, for as many classes as the images have.
    """
    from mbv3c.atomic import check_place
    from mbv3c.training.session import TrainRequest, train_file

    check_place(output, force=force)
    overrides = take_overrides(given, "--data", there=True)
    asked = {name: value for name, value in taken(given, *_PLANNED).items() if value is not None}
    if "augment" in asked:
        asked["augment"] = augmentations(asked["augment"])
    shares = taken(given, "validation", "test")
    progress = Progress()
    loaded = _model(model, data, labels, given, progress)
    request = TrainRequest(
        data,
        labels,
        _part(shares["validation"], 0.1),
        _part(shares["test"], 0.0),
        limit,
        overrides,
        epochs,
        new_head,
        asked,
        keep_state,
        force,
    )
    document = train_file(loaded, request, output, _shown(progress, as_json))
    if as_json:
        print_json(document)
    else:
        echo("\n".join(_lines(document)))


def _model(
    path: Path | None,
    data: Path,
    labels: Path | None,
    spec: dict[str, Any],
    progress: Progress,
) -> "onnx.ModelProto":
    shape = spec.pop("input_shape")
    if path is not None:
        said = [f"--{name.replace('_', '-')}" for name, value in spec.items() if value is not None]
        if said:
            raise UsageError(
                f"{', '.join(said)} cannot be combined with a MODEL: they say which one to build"
            )
        progress(f"reading {path}")
        return load_given(path, shape)
    if shape is not None:
        raise UsageError("--input-shape belongs to a MODEL; use --resolution instead")
    if spec["classes"] is None:
        from mbv3c.training.given import classes_of

        spec["classes"] = classes_of(data, labels).count
    progress(f"building the graph, for {spec['classes']} classes")
    return built(spec)


def _part(text: str | None, default: float) -> float | Path:
    """Read a share, or the name of other images."""
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _shown(progress: Progress, as_json: bool) -> "Report":
    """Return what shows events on stderr: each as a line of JSON, or some as lines for people."""
    if as_json:
        return echo_event
    return _Lines(progress)


class _Lines:
    """Prints events as lines; of progress not every one."""

    def __init__(self, progress: Progress) -> None:
        self._print, self._said = progress, time.monotonic()

    def __call__(self, event: "Event") -> None:
        now = time.monotonic()
        if event["event"] == "progress" and now - self._said < _LINE_SECONDS:
            return
        if event["event"] == "progress":
            self._said = now
        for line in _texts(event):
            self._print(line)


def _texts(event: "Event") -> list[str]:
    """Say an event, in lines."""
    match event["event"]:
        case "step":
            return [event["step"]]
        case "start":
            return _start(event)
        case "checkpoint":
            right = event["validation"]
            return [f"{event['model']}: {right['share']:.1%} of {right['of']} validation images"]
        case "interrupted":
            if event["model"] is None:
                return ["nothing is kept yet; the same command begins anew"]
            return [f"{event['model']} is the model so far; the same command goes on there"]
        case _:
            left = "" if event["left_s"] is None else f", {_clock(event['left_s'])} left"
            return [
                f"step {event['step']} of {event['steps']}: loss {event['loss']:.3f}, "
                f"{event['accuracy']:.1%} of the training images{left}"
            ]


def _start(event: "Event") -> list[str]:
    images, plan, count = event["images"], event["plan"], f"{event['epochs']:.3g}"
    epochs = f"{count} epoch{'s' * (count != '1')}"
    lines = [
        f"{images['train']:,} images to train with, {images['validation']:,} to validate with, "
        f"{images['test']:,} to test with, {event['classes']} classes by {event['labels']}",
        f"{plan['steps']:,} steps of {plan['batch']} ({epochs}), rate "
        f"{plan['rate']:g}, augmentation: {', '.join(plan['augment']) or 'none'}; state: "
        f"{event['state']}",
    ]
    if empty := event["empty_classes"]:
        some = ", ".join(empty[:_EMPTY_SHOWN]) + (", ..." if len(empty) > _EMPTY_SHOWN else "")
        lines.append(f"no images to train with are of {len(empty):,} of the classes: {some}")
    if event["broken"]:
        lines.append(f"{event['broken']} images are left out; the first: {event['first_broken']}")
    if not event["normalized"]:
        lines.append(
            "the model has no BatchNormalization, or it was folded when it was exported: it is "
            "trained without, which bears small rates only"
        )
    return lines


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _lines(document: dict[str, Any]) -> list[str]:
    plan, count = document["plan"], document["parameters"]
    lines = [
        f"{document['model']}: {plan['steps']:,} steps, loss {document['loss']:.3f}, "
        f"{count['trained']:,} of {count['stored']:,} numbers trained"
    ]
    for part in ("validation", "test"):
        right = document[part]
        if right is not None:
            lines.append(
                f"{part}: {right['share']:.2%} of {right['of']:,} images right (95 %: "
                f"{right['low']:.2%} to {right['high']:.2%})"
            )
    if document["state"]:
        lines.append(f"{document['state']}: the state")
    return lines
