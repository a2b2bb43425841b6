"""The options of `mbv3c verify --images`, and how its progress is shown."""

import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands import places
from mbv3c.commands.loudness import is_quiet
from mbv3c.commands.options import PATH, Progress, all_of, echo, echo_event, print_json
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbv3c.accuracy.gate import AccuracyGate
    from mbv3c.accuracy.measure import Event, Report
    from mbv3c.execution.device.place import Place
    from mbv3c.parity.gate.baseline import GateRequest
    from mbv3c.quantization.images import Overrides
    from mbv3c.quantization.own_inputs import InputsRequest
    from mbv3c.trust import Trust


class Percent(click.ParamType[float]):
    """A share, written as 5%; it must have its sign, as a bare 5 could be anything."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not text.endswith("%") or not 0 <= share < float("inf"):
            self.fail(f"{value!r} is no percentage of 0% or more, such as 5%", param, ctx)
        return share


_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal

# About images; how these are prepared is in `preparing_options`.
image_options = all_of(
    click.option(
        "--images", type=places.IMAGES, help="Measure accuracy on the images of a folder instead."
    ),
    click.option(
        "--labels",
        type=PATH,
        help="Read labels from a CSV with the columns file,label; or none.  [default: the "
        "folders' names]",
    ),
    click.option(
        "--limit",
        type=int,
        help="Take a sample of so many images; of --inputs the first.  [default: all; 100]",
    ),
    click.option("--seed", type=int, help="Draw the sample from this seed.  [default: 0]"),
    click.option("--journal", type=PATH, help="Keep all results in this file."),
    click.option(
        "--list", "listing", type=PATH, help="Write the images that differ or are broken to a CSV."
    ),
    click.option(
        "--max-accuracy-drop",
        type=Percent(),
        help="Let top-1 be so much below the model's at most, such as 1%.",
    ),
    click.option(
        "--min-agreement",
        type=Percent(),
        help="Ask for this share of images with the model's best class at least, such as 99%.",
    ),
)
# The names of these options as arguments.
_LIMITS = ("max_accuracy_drop", "min_agreement")
IMAGES = ("images", "labels", "limit", "seed", "journal", "listing", *_LIMITS)


def asked_for(images: dict[str, Any]) -> bool:
    """Say whether --images is there.

    Raises:
        UsageError: it is not, and an option that belongs to it is.
    """
    others = [name for name, value in images.items() if name != "images" and value is not None]
    if images["images"] is None and others:
        option = "list" if others[0] == "listing" else others[0].replace("_", "-")
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


def gate_of(images: dict[str, Any], request: "GateRequest") -> "AccuracyGate":
    """Return what a measurement on images is held to, of all that `verify` can be asked.

    Raises:
        UsageError: something else is asked for, or a limit is none.
    """
    from mbv3c.accuracy.gate import AccuracyGate
    from mbv3c.parity.gate.baseline import GateRequest

    taken = ("report", "baseline", "junit", "html")
    files = {name: getattr(request, name) for name in taken}
    if request != GateRequest(**files):
        raise UsageError(
            "--images goes with --max-accuracy-drop, --min-agreement, --report, --baseline, "
            "--junit and --html, and with no other limit or file; the others belong to `verify` "
            "without it"
        )
    drop, agreement = (images[name] for name in _LIMITS)
    return AccuracyGate(drop, agreement, **files)


def _check_early(path: Path, images: dict[str, Any], gate: "AccuracyGate") -> None:
    """Refuse what the manifest, the folder's names and the files show, before TVM is imported."""
    from mbv3c.accuracy.gate import read_report
    from mbv3c.accuracy.image_sets import Classes, find_images
    from mbv3c.accuracy.scores import class_scores
    from mbv3c.graphs.outputs import class_names
    from mbv3c.manifest import Manifest, read_manifest
    from mbv3c.quantization.images import IMAGES as SUFFIXES

    manifest = read_manifest(path).parse(Manifest)
    _, count = class_scores(manifest, path)
    classes = Classes(count, class_names(manifest.model.metadata, count))
    found = find_images(images["images"], classes, SUFFIXES, images["labels"])
    if next(found.read(), None) is None:
        raise UsageError(f"{images['images']} holds no images; put some there, or name another")
    if gate.needs_classes and not found.labelled:
        raise UsageError(
            f"--max-accuracy-drop needs the images' classes, and there are {found.origin}; "
            "--min-agreement needs none"
        )
    if gate.baseline is not None:
        read_report(gate.baseline)


def verify_images(
    path: Path,
    images: dict[str, Any],
    overrides: "Overrides",
    where: "tuple[Place | None, Trust]",
    gate: "AccuracyGate",
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Measure a bundle on images and print the result; exit 1 if it misses what it is held to.

    `where` is the device to run on, and what the user says of a bundle from elsewhere; `force`
    writes over the list that is there.
    """
    _check_early(path, images, gate)
    from mbv3c.accuracy.gated import measured
    from mbv3c.accuracy.measure import AccuracyRequest
    from mbv3c.accuracy.report import lines
    from mbv3c.parity.verdict import exit_code
    from mbv3c.targets import backend_for, open_bundle

    place, trust = where
    bundle = open_bundle(path, trust)
    backend = backend_for(bundle)

    folder, labels, limit = (images[name] for name in ("images", "labels", "limit"))
    written = (images["journal"], images["listing"])
    seed = images["seed"] or 0
    request = AccuracyRequest(folder, labels, overrides, limit, seed, *written, force)
    with _shown(as_json) as report:
        accuracy, checks = measured(
            *(bundle, lambda step: backend.open(bundle, step, place=place), request, report, gate)
        )
    code = exit_code(checks)
    if as_json:
        told = {"checks": [check.to_json() for check in checks], "passed": not code}
        print_json({**accuracy, **told, "exit_code": code})
    else:
        verdicts = (
            f"{'passed' if check.passed else 'MISSED'} {check.name}: {check.finding}"
            for check in checks
        )
        echo("\n".join([*lines(accuracy), *verdicts]))
    if code:
        raise click.exceptions.Exit(code)


@contextmanager
def _shown(as_json: bool) -> "Iterator[Report]":
    """Show a measurement on stderr; give what is to be told its events.

    With `as_json` every event is a line of JSON; on a terminal there is a bar; elsewhere there is
    a line now and then.
    """
    if as_json:
        yield echo_event
    elif sys.stderr.isatty() and not is_quiet():
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
