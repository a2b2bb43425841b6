"""The options of `mbv3c verify --images`, and how its progress is shown."""

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands import places
from mbv3c.commands.options import PATH, Progress, all_of, echo, print_json
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbv3c.accuracy.measure import Event, Report
    from mbv3c.execution.device.place import Place
    from mbv3c.quantization.images import Overrides
    from mbv3c.quantization.own_inputs import InputsRequest
    from mbv3c.trust import Trust

_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal

# About images; how these are prepared is in `preparing_options`.
image_options = all_of(
    click.option(
        "--images", type=places.IMAGES, help="Measure accuracy on the images of a folder instead."
    ),
    click.option(
        "--labels",
        type=PATH,
        help="CSV with the columns file,label; or none.  [default: the folders' names]",
    ),
    click.option(
        "--limit",
        type=int,
        help="Take a sample of so many images; of --inputs the first.  [default: all; 100]",
    ),
    click.option("--seed", type=int, help="Of the sample.  [default: 0]"),
    click.option("--journal", type=PATH, help="File to keep all results in."),
    click.option(
        "--list", "listing", type=PATH, help="CSV for the images that differ or are broken."
    ),
)
# The names of these options as arguments.
IMAGES = ("images", "labels", "limit", "seed", "journal", "listing")


def asked_for(images: dict[str, Any]) -> bool:
    """Say whether --images is there.

    Raises:
        UsageError: it is not, and an option that belongs to it is.
    """
    others = [name for name, value in images.items() if name != "images" and value is not None]
    if images["images"] is None and others:
        option = "list" if others[0] == "listing" else others[0]
        raise UsageError(
            f"--{option} belongs to --images {'or --inputs ' if option == 'limit' else ''}FOLDER"
        )
    return images["images"] is not None


def inputs_wanted(
    inputs: Path | None, images: dict[str, Any], overrides: "Overrides"
) -> "InputsRequest | None":
    """Return what --inputs asks for, and take its --limit out of the options about images.

    Raises:
        UsageError: --images is there, too.
    """
    if inputs is None:
        return None
    if images["images"] is not None:
        raise UsageError("--inputs checks parity, --images measures accuracy: leave one out")
    from mbv3c.quantization.own_inputs import InputsRequest

    limit, images["limit"] = images["limit"], None
    return InputsRequest(inputs, overrides, limit)


def verify_images(
    path: Path,
    images: dict[str, Any],
    overrides: "Overrides",
    where: "tuple[Place | None, Trust]",
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a bundle on images and print the result.

    `where` is the device to run on, and what the user says of a bundle from elsewhere; `force`
    writes over the list that is there.
    """
    from mbv3c.accuracy.measure import AccuracyRequest, measure_accuracy
    from mbv3c.accuracy.report import lines
    from mbv3c.targets import backend_for, open_bundle

    place, trust = where
    bundle = open_bundle(path, trust)
    backend = backend_for(bundle)

    folder, labels, limit = (images[name] for name in ("images", "labels", "limit"))
    written = (images["journal"], images["listing"])
    seed = images["seed"] or 0
    request = AccuracyRequest(folder, labels, overrides, limit, seed, *written, force)
    with _shown(as_json) as report:
        accuracy = measure_accuracy(
            bundle, lambda step: backend.open(bundle, step, place=place), request, report
        )
    if as_json:
        print_json(accuracy)
    else:
        echo("\n".join(lines(accuracy)))


@contextmanager
def _shown(as_json: bool) -> "Iterator[Report]":
    """Show a measurement on stderr; give what is to be told its events.

    With `as_json` every event is a line of JSON; on a terminal there is a bar; elsewhere there is
    a line now and then.
    """
    if as_json:
        yield lambda event: click.echo(json.dumps(event), err=True)
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _Lines()


class _Lines:
    """Prints events as lines; of progress not every one."""

    def __init__(self) -> None:
        self._print, self._said, self._images = Progress(), time.monotonic(), 0

    def __call__(self, event: "Event") -> None:
        now = time.monotonic()
        if event["event"] == "progress" and now - self._said < _LINE_SECONDS:
            return
        self._said = now
        self._images = event.get("images", self._images)
        self._print(progress_text(event, self._images))


@contextmanager
def _bar() -> "Iterator[Report]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TextColumn("{task.fields[state]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("images", total=None, state="")

        def report(event: "Event") -> None:
            if event["event"] in ("start", "step", "slow", "interrupted"):
                bar.console.print(progress_text(event, 0), markup=False, highlight=False)
            if event["event"] == "start":
                bar.update(task, total=event["images"], completed=event["done"])
            elif event["event"] == "progress":
                bar.update(task, completed=event["done"], state=_state(event))
            elif event["event"] == "done":
                bar.update(task, completed=event["done"], state="")

        yield report


def progress_text(event: "Event", images: int) -> str:
    """Say an event in a line; `images` is how many there are."""
    match event["event"]:
        case "step":
            return str(event["step"])
        case "start":
            from mbv3c.accuracy.report import prepared

            of = "" if event["of"] == event["images"] else f" of {event['of']}"
            done = f", {event['done']} of them in the journal" if event["done"] else ""
            return (
                f"running {event['images']}{of} images{done} on {event['ran_on']}; preprocessing: "
                f"{prepared(event['preprocessing'])}; journal: {event['journal']}"
            )
        case "slow":
            return (
                f"this takes about {event['seconds_each']:.2g} s an image (estimated), "
                f"{_clock(event['left_s'])} more; --limit N takes a sample of the images"
            )
        case "interrupted":
            return (
                f"{event['done']} images are in the journal {event['journal']}; the same command "
                "goes on there"
            )
        case "done":
            return f"{event['done']} images done"
        case _:
            return f"{event['done']} of {images} images, {_state(event)}"


def _state(event: "Event") -> str:
    agreement = event["agreement"]
    parts = [
        f"{event['broken']} broken",
        *([] if agreement is None else [f"{agreement:.2%} agree"]),
        f"{_clock(event['left_s'])} left",
    ]
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
