"""The command `mbv3c tune`."""

import json
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mbv3c.commands.options import (
    built_or_loaded,
    device_options,
    force_option,
    model_options,
    opset_option,
    place_of,
    precision_options,
    read_numbers,
)
from mbv3c.commands.output import Progress, json_option, print_json
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx

    from mbv3c.targets.ethos_u.devices import NpuTarget
    from mbv3c.targets.ethos_u.tuning import estimates
    from mbv3c.tuning.tuner import Event

_DEVICE_OPTIONS = ("device", "tracker", "key", "timeout")


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--target", required=True, help="FAMILY[:DEVICE], see `mbv3c targets`.")
@click.option(
    "--runner",
    help="local, rpc, emulated (arm_cpu) or estimated (not host_cpu).  [default: what fits]",
)
@precision_options
@device_options
@click.option(
    "--trials",
    type=int,
    help="Candidates to measure.  [default: 400 without --minutes; of an NPU all]",
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
@click.option("--sram", type=int, help="npu: budget of SRAM in KiB, tried as arena, too.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Draw what was found over time, of an npu cycles against SRAM: a .png or .svg file.",
)
@force_option
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@opset_option
@model_options
@json_option
def tune(
    model: Path | None,
    target: str,
    precision: str | None,
    calibration: Path | None,
    keep_float: str | None,
    runner: str | None,
    device: str | None,
    tracker: str | None,
    key: str | None,
    timeout: float | None,
    trials: int | None,
    minutes: float | None,
    patience: int,
    tuning_seed: int,
    database: Path,
    status: bool,
    prune: bool,
    export_to: Path | None,
    import_from: Path | None,
    sram: int | None,
    plot: Path | None,
    force: bool,
    input_shape: str | None,
    opset: int | None,
    as_json: bool,
    **spec: Any,
) -> None:
    """Measure other choices for the kernels of a network, and keep those that make it faster.

    For an NPU, ask vela what its choices cost in cycles and SRAM.

    Interrupt it whenever you like: what was measured is in the database, and the next run goes on.
    """
    from mbv3c.targets.ethos_u.devices import is_npu
    from mbv3c.targets.table import find_target

    if is_npu(target):
        tune_npu(
            NpuRequest(
                target,
                runner,
                trials,
                minutes,
                sram,
                calibration,
                plot,
                force,
                as_json,
                _given("patience", "tuning_seed", "precision", "keep_float", *_DEVICE_OPTIONS),
            ),
            lambda progress: built_or_loaded(model, spec, input_shape, opset, progress),
            database,
            Files(status, prune, export_to, import_from),
        )
        return
    if given := _given("sram"):
        raise UsageError(f"{', '.join(given)} are for --target npu only")
    found = find_target(target)

    from mbv3c.figures import check_figure
    from mbv3c.targets.cpu import library as cpu
    from mbv3c.tuning import exchange as files
    from mbv3c.tuning import plot as curves
    from mbv3c.tuning import session as network
    from mbv3c.tuning.choices import context_of, device_of
    from mbv3c.tuning.database import Context, Database, folder_for
    from mbv3c.tuning.device_meter import one_at_a_time, opened
    from mbv3c.tuning.tuner import Budget

    chosen = Database(folder_for(database, device_of(found)))

    def current(context: Context) -> bool:
        return context == context_of(found, context.unit)

    if status or prune or export_to or import_from:
        said = [
            *([files.prune(chosen, current)] if prune else []),
            *([files.import_records(chosen, current, import_from)] if import_from else []),
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
    place = place_of(device, tracker, key, timeout)
    network.check_runner(runner, place[0] if place else None)
    numbers = read_numbers(found, precision, calibration, keep_float)

    if plot is not None:
        check_figure(plot, force=force)

    from mbv3c.quantization.quantize import quantize_once

    progress = Progress()
    loaded = built_or_loaded(model, spec, input_shape, opset, progress)
    if numbers.precision == "int8":
        source = numbers.calibration(loaded)
        loaded, _ = quantize_once(loaded, source, numbers.quantizing, progress)
    budget = Budget(trials, minutes * 60 if minutes is not None else None, patience)
    with ExitStack() as stack:
        report = one_at_a_time(stack.enter_context(_shown(as_json)))
        devices = None
        if place is not None:
            devices = stack.enter_context(opened(cpu.resolve(found), *place, report))
        tuned = network.tune_network(
            loaded,
            found,
            database,
            runner,
            budget,
            tuning_seed,
            report,
            devices,
            precision=numbers.precision,
            keep_float=numbers.keep_float,
        )
    if plot is not None and tuned.estimate:
        raise UsageError(f"--plot draws measurements, and {found.name} was only estimated")
    if plot is not None:
        lines = curves.curves(tuned.outcome.states, chosen.records())
        curves.draw(plot, lines, tuned.device, tuned.runner, force=force)
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

    from mbv3c.commands.tune_table import LiveTable
    from mbv3c.tuning.session import said

    if as_json:
        yield lambda event: click.echo(json.dumps(event), err=True)
        return
    if not sys.stderr.isatty():
        progress = Progress()
        yield lambda event: progress(said(event))
        return
    console, board = Console(stderr=True), LiveTable()
    with Live(
        console=console, refresh_per_second=4, get_renderable=lambda: board.draw(console.height)
    ):
        yield board.learn


def _given(*names: str) -> tuple[str, ...]:
    """Return those of some options that the user gave, in the user's spelling."""
    source = click.get_current_context().get_parameter_source
    given = (name for name in names if source(name) is not ParameterSource.DEFAULT)
    return tuple(f"--{name.replace('_', '-')}" for name in given)


_KIB = 1024


@dataclass(frozen=True)
class NpuRequest:
    """Options of `tune` that matter for an NPU, as they were given; None is nothing given.

    Attributes:
        target: `npu[:DEVICE]`.
        runner: estimated, or nothing.
        trials, minutes: limits.
        sram: KiB.
        calibration: a folder.
        plot: a picture to write.
        force: write over what is there.
        as_json: print JSON.
        for_cpus: names of options that were given and are for CPUs.
    """

    target: str
    runner: str | None
    trials: int | None
    minutes: float | None
    sram: int | None
    calibration: Path | None
    plot: Path | None
    force: bool
    as_json: bool
    for_cpus: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """What to do with the database instead of tuning."""

    status: bool
    prune: bool
    export_to: Path | None
    import_from: Path | None


def tune_npu(
    request: NpuRequest,
    load: "Callable[[Callable[[str], None]], onnx.ModelProto]",
    root: Path,
    files: Files,
) -> None:
    """Do what `mbv3c tune --target npu` says.

    Raises:
        Mbv3cError: as `npu_tune.tune_npu` says, or options do not go together.
    """
    from mbv3c.targets.ethos_u.devices import find_npu
    from mbv3c.targets.ethos_u.tools import require_npu_tools
    from mbv3c.targets.ethos_u.tuning import estimates

    target = find_npu(request.target)
    if files.prune or files.import_from or not (files.status or files.export_to):
        require_npu_tools()  # its versions matter there
    if any((files.status, files.prune, files.export_to, files.import_from)):
        for line in _files(estimates.estimates_for(root, target), target, files):
            click.echo(line)
        return
    _check(request)

    from mbv3c.figures import check_figure
    from mbv3c.quantization.calibration import calibration_files, folder_inputs
    from mbv3c.targets.ethos_u.tuning import tune as npu_tune
    from mbv3c.tuning.choices import OWN

    if request.plot is not None:
        check_figure(request.plot, force=request.force)
    if request.calibration is not None:
        calibration_files(request.calibration)
    progress = Progress()
    model = load(progress)
    tuned = npu_tune.tune_npu(
        model,
        target,
        root,
        folder_inputs(model, request.calibration) if request.calibration is not None else None,
        sram_bytes=request.sram * _KIB if request.sram is not None else None,
        trials=request.trials,
        seconds=request.minutes * 60 if request.minutes is not None else None,
        progress=progress,
    )
    if request.plot is not None:
        npu_tune.draw(tuned, request.plot, force=request.force)
    if request.as_json:
        print_json(npu_tune.tuned_json(tuned))
        return
    for line in npu_tune.tuned_lines(tuned):
        click.echo(line)
    where = "" if root == OWN else f" --tune-logs {root}"
    click.echo(f"in {tuned.database}; `mbv3c compile --target {target.name}{where}` uses it")


def _files(database: "estimates.Estimates", target: "NpuTarget", files: Files) -> list[str]:
    from mbv3c.targets.ethos_u.tuning import estimates
    from mbv3c.tuning import exchange as database_files

    def current(context: "estimates.VelaContext") -> bool:
        return context == estimates.context_of(target)

    said = []
    if files.prune:
        said.append(database_files.prune(database, current))
    if files.import_from:
        said.append(database_files.import_records(database, current, files.import_from))
    if files.export_to:
        said.append(database_files.export_records(database, files.export_to))
    return [*said, *(estimates.status_lines(database) if files.status else [])]


def _check(request: NpuRequest) -> None:
    from mbv3c.targets.ethos_u.tuning.explore import RUNNER

    if request.runner not in (None, RUNNER):
        raise UsageError(f"--runner {request.runner} is for CPUs; for an NPU there is {RUNNER}")
    if request.for_cpus:
        raise UsageError(f"{', '.join(request.for_cpus)} are for CPUs: here every choice is tried")
    if (request.trials is not None and request.trials < 1) or (
        request.minutes is not None and request.minutes <= 0
    ):
        raise UsageError("--trials and --minutes must be above 0")
    if request.sram is not None and request.sram < 1:
        raise UsageError(
            f"--sram {request.sram} makes no sense; give a number of KiB, such as 512"
        )
