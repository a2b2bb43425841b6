"""The command `mbv3c tune`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.cli_common import Progress, json_option, print_json
from mbv3c.cli_model import built_or_loaded, model_options, opset_option
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.tuning.tune import Event


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--target", required=True, help="A CPU: FAMILY[:DEVICE], see `mbv3c targets`.")
@click.option(
    "--runner", help="local, emulated or estimated.  [default: what the target needs here]"
)
@click.option(
    "--trials", type=int, help="Candidates to measure.  [default: 400 without --minutes]"
)
@click.option("--minutes", type=float, help="Time for the search.")
@click.option(
    "--patience", type=int, default=3, show_default=True, help="Batches of 12 without a gain."
)
@click.option("--tuning-seed", type=int, default=0, show_default=True, help="Of the search.")
@click.option(
    "--database",
    type=click.Path(path_type=Path),
    default=Path("tune_logs"),
    show_default=True,
    help="Folder of all databases; TARGET's own is in it.",
)
@click.option("--status", is_flag=True, help="Only say what is in the database.")
@click.option("--prune", is_flag=True, help="Delete records of other kernels and other TVMs.")
@click.option(
    "--export", "export_to", type=click.Path(path_type=Path), help="Write the database to a file."
)
@click.option(
    "--import", "import_from", type=click.Path(path_type=Path), help="Add a file's records."
)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@opset_option
@model_options
@json_option
def tune(
    model: Path | None,
    target: str,
    runner: str | None,
    trials: int | None,
    minutes: float | None,
    patience: int,
    tuning_seed: int,
    database: Path,
    status: bool,
    prune: bool,
    export_to: Path | None,
    import_from: Path | None,
    input_shape: str | None,
    opset: int | None,
    as_json: bool,
    **spec: Any,
) -> None:
    """Measure other choices for the kernels of a network, and keep those that make it faster.

    Interrupt it whenever you like: what was measured is in the database, and the next run goes on.
    """
    from mbv3c.targets.npu_table import is_npu
    from mbv3c.targets.table import find_target

    if is_npu(target):
        raise UsageError(f"{target} cannot be tuned yet; `compile --explain` compares its knobs")
    found = find_target(target)
    if found.gpu:
        raise UsageError(f"{found.name} cannot be tuned yet; its knobs are chosen by an estimate")

    from mbv3c.tuning import files, network
    from mbv3c.tuning.choices import device_of
    from mbv3c.tuning.database import Database, folder_for
    from mbv3c.tuning.tune import Budget

    chosen = Database(folder_for(database, device_of(found)))
    if status or prune or export_to or import_from:
        said = [
            *([files.prune(chosen, found)] if prune else []),
            *([files.import_records(chosen, found, import_from)] if import_from else []),
            *([files.export_records(chosen, export_to)] if export_to else []),
            *(network.status_lines(chosen) if status else []),
        ]
        for line in said:
            click.echo(line)
        return
    if (trials is not None and trials < 1) or (minutes is not None and minutes <= 0):
        raise UsageError("--trials and --minutes must be above 0")
    if patience < 1:
        raise UsageError(f"--patience {patience} is not possible; choose at least 1")
    if trials is None and minutes is None:
        trials = 400
    progress = Progress()
    loaded = built_or_loaded(model, spec, input_shape, opset, progress)
    seconds = minutes * 60 if minutes is not None else None
    budget = Budget(trials, seconds, patience)
    with _shown(as_json) as report:
        tuned = network.tune_network(loaded, found, database, runner, budget, tuning_seed, report)
    if as_json:
        print_json(tuned.to_json())
        return
    for line in network.summary_lines(tuned):
        click.echo(line)


@contextmanager
def _shown(as_json: bool) -> "Iterator[Callable[[Event], None]]":
    """Show a search on stderr; give what is to be told its events.

    With `as_json` every event is a line of JSON; on a terminal there is a table that changes in
    place; elsewhere there is a line for every batch.
    """
    from rich.console import Console
    from rich.live import Live

    from mbv3c.tuning.live import Board
    from mbv3c.tuning.network import said

    if as_json:
        yield lambda event: click.echo(json.dumps(event), err=True)
        return
    if not sys.stderr.isatty():
        progress = Progress()
        yield lambda event: progress(said(event))
        return
    console, board = Console(stderr=True), Board()
    with Live(
        console=console, refresh_per_second=4, get_renderable=lambda: board.draw(console.height)
    ):
        yield board.learn
