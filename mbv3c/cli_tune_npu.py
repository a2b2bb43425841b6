"""`mbv3c tune` for an NPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mbv3c.cli_common import Progress, print_json
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from mbv3c.targets.npu_table import NpuTarget
    from mbv3c.tuning import estimates

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
    from mbv3c.targets.npu_table import find_npu
    from mbv3c.targets.npu_tools import require_npu_tools
    from mbv3c.tuning import estimates

    target = find_npu(request.target)
    if files.prune or files.import_from or not (files.status or files.export_to):
        require_npu_tools()  # its versions matter there
    if any((files.status, files.prune, files.export_to, files.import_from)):
        for line in _files(estimates.estimates_for(root, target), target, files):
            click.echo(line)
        return
    _check(request)

    from mbv3c import npu_tune
    from mbv3c.figures import check_figure
    from mbv3c.quantization.calibration import calibration_files, folder_inputs
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
    from mbv3c.tuning import estimates
    from mbv3c.tuning import files as database_files

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
    from mbv3c.tuning.npu import RUNNER

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
