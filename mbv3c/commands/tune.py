"""The command `mbv3c tune`."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbv3c import steps
from mbv3c.commands import dry_run
from mbv3c.commands.engines import take_where, where_options
from mbv3c.commands.loudness import is_quiet, set_by_file
from mbv3c.commands.options import (
    PATH,
    Progress,
    built_or_loaded,
    device_options,
    echo,
    echo_event,
    force_option,
    json_option,
    model_options,
    opset_option,
    place_of,
    precision_options,
    print_json,
    take_sampling,
    taken,
)
from mbv3c.commands.places import FILE, MODEL, boards_named, target_option
from mbv3c.commands.preparing import preparing_options, take_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mbv3c.execution.times import Work
    from mbv3c.tuning.tuner import Event

_KIB = 1024
_DEVICE_OPTIONS = ("device", "tracker", "key", "timeout", "secret")


@click.command()
@click.argument("model", type=MODEL, required=False)
@target_option
@click.option(
    "--runner",
    help="Measure by local, rpc, emulated (arm_cpu) or estimated (not host_cpu).  [default: "
    "what fits]",
)
@precision_options
@preparing_options
@device_options
@where_options
@click.option(
    "--trials",
    type=int,
    help="Measure so many candidates.  [default: 400 without --minutes; for an NPU all]",
)
@click.option("--minutes", type=float, help="Time for all of it.")
@click.option(
    "--patience",
    type=int,
    default=3,
    show_default=True,
    help="Leave a kernel after so many batches without a gain.",
)
@click.option(
    "--tuning-seed", type=int, default=0, show_default=True, help="Draw candidates from this seed."
)
@click.option(
    "--database",
    type=PATH,
    default=Path("tune_logs"),
    show_default=True,
    help="Keep all databases in this folder; TARGET's own is in it.",
)
@click.option("--status", is_flag=True, help="Only say what is in the database.")
@click.option("--prune", is_flag=True, help="Delete records of other kernels and other TVMs.")
@click.option("--export", "export_to", type=PATH, help="Write the database to a file.")
@click.option("--import", "import_from", type=FILE, help="Add a file's records.")
@click.option(
    "--sram", type=int, help="For npu, fit into so many KiB of SRAM, tried as arena, too."
)
@click.option(
    "--plot",
    type=PATH,
    help="Draw what was found over time, for an npu cycles against SRAM: a .png or .svg file.",
)
@dry_run.dry_run_option
@force_option
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@opset_option
@model_options
@json_option
def tune(
    model: Path | None,
    database: Path,
    plot: Path | None,
    dry: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure other choices for the kernels of a network, and keep those that make it faster.

    For an NPU, ask vela what its choices cost in cycles and SRAM.

    Interrupt it whenever you like: what was measured is in the database, and the next run goes on.
    """
    from mbv3c.targets import backend_of, find_target

    target = find_target(given["target"])
    precision = dry_run.precision_named(target.name, given["precision"])
    work = dry_run.work_of("tune", dry_run.subject(model, given), target.name, precision)
    if dry:
        dry_run.show(_plan(work, model, database, given), as_json=as_json)
        return
    kept = taken(given, "prune", "import_from", "export_to", "status")
    if any(kept.values()):
        records = backend_of(target).database(database, target)
        lines = [
            *([records.prune()] if kept["prune"] else []),
            *([records.import_from(kept["import_from"])] if kept["import_from"] else []),
            *([records.export_to(kept["export_to"])] if kept["export_to"] else []),
            *(records.status() if kept["status"] else []),
        ]
        echo("\n".join(lines))
        return

    from mbv3c.figures import check_figure
    from mbv3c.job_spec import NO_TUNE_LOGS, JobSpec
    from mbv3c.pipeline import tune_model
    from mbv3c.tuning.request import TuneRequest
    from mbv3c.tuning.session import event_sentence

    minutes, sram = given.pop("minutes"), given.pop("sram")
    request = TuneRequest(
        database,
        seconds=minutes * 60 if minutes is not None else None,
        seed=given.pop("tuning_seed"),
        place=place_of(given),
        sram_bytes=sram * _KIB if sram is not None else None,
        given=_given("patience", "tuning_seed", "precision", "keep_float", *_DEVICE_OPTIONS),
        **taken(given, "runner", "trials", "patience"),
        **take_where(given),
    )
    preparing = take_overrides(
        given, "--calibration FOLDER", there=given["calibration"] is not None
    )
    names = ("target", "precision", "calibration", "keep_float")
    job_spec = JobSpec(
        **taken(given, *names),
        tune_logs=NO_TUNE_LOGS,
        preparing=preparing,
        sampling=take_sampling(given),
    )
    job = job_spec.job()
    backend_of(target).check_tuning(job, request)
    if plot is not None:
        check_figure(plot, force=force)
    with _shown(as_json) as show:

        def report(event: "Event") -> None:
            steps.say(event_sentence(event))
            show(event)

        with dry_run.noting(work):
            loaded = built_or_loaded(
                model, given, lambda text: report({"event": "step", "text": text})
            )
            tuning = tune_model(loaded, job_spec.calibrated(job, loaded), request, report)
    if plot is not None:
        tuning.draw(plot, force=force)
    if as_json:
        print_json(tuning.to_json())
        return
    echo("\n".join(tuning.lines()))


@contextmanager
def _shown(as_json: bool) -> "Iterator[Callable[[Event], None]]":
    """Show a search on stderr; give what is to be told its events.

    With `as_json` every event is a line of JSON; on a terminal there is a table that changes in
    place; elsewhere there is a line for every batch.
    """
    from rich.console import Console
    from rich.live import Live

    from mbv3c.commands.tune_table import LiveTable
    from mbv3c.tuning.session import event_sentence

    if as_json:
        for known in (*set_by_file(), *boards_named()):
            echo_event({"event": "step", "text": known})
        yield echo_event
        return
    if is_quiet() or not sys.stderr.isatty():
        progress = Progress()
        yield lambda event: progress(event_sentence(event))
        return
    for known in (*set_by_file(), *boards_named()):
        echo(known, err=True)
    console, board = Console(stderr=True), LiveTable()
    with Live(
        console=console, refresh_per_second=4, get_renderable=lambda: board.draw(console.height)
    ):
        yield board.learn


def _plan(work: "Work", model: Path | None, database: Path, given: dict[str, Any]) -> dry_run.Plan:
    """Say what `tune` would do."""
    place = given["device"] or given["tracker"]
    limits = [
        *([f"{given['trials']} candidates"] if given["trials"] is not None else []),
        *([f"{given['minutes']:g} minutes"] if given["minutes"] is not None else []),
    ]
    steps = [
        dry_run.got(model, work),
        f"search for {work.target} in {work.precision}, at most "
        f"{' or '.join(limits) or 'as long as it finds something'}",
        f"measure on {place}" if place else f"measure by {given['runner'] or 'what fits'}",
        "compare the whole network before and after, and keep what is faster",
    ]
    output = database / work.target.replace(":", "/")
    return dry_run.Plan(work, steps, dry_run.COMPILING, output)


def _given(*names: str) -> frozenset[str]:
    """Return those of some options that the user gave."""
    source = click.get_current_context().get_parameter_source
    return frozenset(name for name in names if source(name) is not ParameterSource.DEFAULT)
