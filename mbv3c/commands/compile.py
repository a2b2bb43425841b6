"""The command `mbv3c compile`."""

import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import (
    built_or_loaded,
    force_option,
    model_options,
    opset_option,
    precision_options,
    read_numbers,
)
from mbv3c.commands.output import Progress, json_option, print_json
from mbv3c.commands.verify import sentence
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from mbv3c.job import Target
    from mbv3c.lowering.kernels import Choices
    from mbv3c.targets.ethos_u.options import Request


def _npu_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Add what can be chosen for target npu only; the names are those of `npu_request.GIVEN`."""
    options = [
        click.option("--optimise", help="npu: performance or size.  [default: performance]"),
        click.option(
            "--sram", type=int, help="npu: budget of SRAM in KiB, an error if too small."
        ),
        click.option("--float-io", is_flag=True, default=None, help="npu: fp32 in and out."),
        click.option("--mean", help="npu: means as depthwise or pool.  [default: depthwise]"),
        click.option("--memory-mode", help="npu: a section of vela.ini.  [default: the device's]"),
        click.option("--system-config", help="npu: likewise."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command(name="compile")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--target", required=True, help="FAMILY[:DEVICE], see `mbv3c targets`.")
@precision_options
@click.option(
    "--cores", type=int, help="Cores that one inference may use.  [default: the target's]"
)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@opset_option
@model_options
@_npu_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle to write.")
@click.option("--no-verify", is_flag=True, help="Do not check parity.")
@click.option(
    "--explain", is_flag=True, help="List what computes each operator; on npu, what it costs."
)
@click.option(
    "--tune-logs",
    type=click.Path(path_type=Path),
    help="Folder of tuning databases, or `none`.  [default: ./tune_logs, then those shipped]",
)
@click.option("--emit-source", is_flag=True, help="For GPUs: write the kernels as text.")
@force_option
@json_option
def compile_(
    model: Path | None,
    target: str,
    precision: str | None,
    calibration: Path | None,
    keep_float: str | None,
    cores: int | None,
    input_shape: str | None,
    opset: int | None,
    output: Path | None,
    no_verify: bool,
    explain: bool,
    tune_logs: Path | None,
    emit_source: bool,
    force: bool,
    as_json: bool,
    **spec: Any,
) -> None:
    """Compile an ONNX file, or without MODEL a freshly built MobileNetV3, to a bundle."""
    from mbv3c.job import with_cores
    from mbv3c.targets.ethos_u import options as npu_request
    from mbv3c.targets.ethos_u.devices import is_npu
    from mbv3c.targets.table import find_target

    request = npu_request.Request(
        target=target,
        precision=precision,
        cores=cores,
        keep_float=keep_float,
        given={key: spec.pop(key) for key in npu_request.GIVEN},
    )
    if is_npu(target):
        _compile_npu(
            request,
            lambda progress: built_or_loaded(model, spec, input_shape, opset, progress),
            model,
            output,
            calibration,
            tune_logs,
            {"force": force, "verify": not no_verify, "explain": explain, "as_json": as_json},
        )
        return
    request.check_no_npu()
    found = find_target(target)
    if cores is not None:
        found = with_cores(found, cores)
    numbers = read_numbers(found, precision, calibration, keep_float)
    progress = Progress()
    loaded = built_or_loaded(model, spec, input_shape, opset, progress)
    name = loaded.graph.name if model is None else model.stem
    path = output or Path(f"{name}-{found.family}-{found.device}-{numbers.precision}")
    source = numbers.calibration(loaded)

    from mbv3c import pipeline
    from mbv3c.commands.kernel_table import kernel_lines
    from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED

    compiled = pipeline.compile_model(
        loaded,
        found,
        path,
        precision=numbers.precision,
        calibration=source,
        quantizing=numbers.quantizing,
        keep_float=numbers.keep_float,
        choices=_choices(found, tune_logs, progress),
        force=force,
        verify=not no_verify,
        emit_source=emit_source,
        progress=progress,
    )
    parity = compiled.parity.to_json() if compiled.parity else None
    if as_json:
        explained = {"kernels": compiled.kernels} if explain else {}
        print_json({"bundle": str(path), "target": found.name, "parity": parity, **explained})
        return
    for line in kernel_lines(compiled.kernels) if explain else ():
        click.echo(line)
    click.echo(f"{path}: {found.name} {numbers.precision}")
    origins = Counter(one["origin"] for one in compiled.kernels if one["origin"])
    if origins[TUNED] or origins[TRANSFERRED]:
        click.echo(
            f"kernels: {origins[TUNED]} tuned, {origins[TRANSFERRED]} transferred, "
            f"{origins[DEFAULT]} by default rules"
        )
    click.echo(f"parity: {sentence(parity)}" if parity else "parity: not checked (--no-verify)")


def _choices(target: "Target", given: Path | None, progress: "Callable[[str], None]") -> "Choices":
    """Return what was measured for a target, and say what there is and is not used."""
    from mbv3c.lowering.kernels import NO_CHOICES
    from mbv3c.tuning import choices

    roots = _tune_logs(given)
    if not roots:
        return NO_CHOICES
    found = choices.measured(target, roots)
    for warning in found.warnings:
        progress(f"warning: {warning}")
    for note in found.notes:
        progress(note)
    return found


def _tune_logs(given: Path | None) -> tuple[Path, ...]:
    """Return the folders in which measured choices are looked for."""
    from mbv3c.tuning import choices

    if given == Path("none"):
        return ()
    if given is not None and not given.is_dir():
        raise UsageError(f"{given} is no folder of tuning databases; `mbv3c tune` writes one")
    return given or choices.OWN, choices.shipped()


def _compile_npu(
    request: "Request",
    load: "Callable[[Callable[[str], None]], onnx.ModelProto]",
    model: Path | None,
    output: Path | None,
    calibration: Path | None,
    tune_logs: Path | None,
    flags: dict[str, bool],
) -> None:
    from mbv3c.targets.ethos_u.tools import require_npu_tools

    target, options = request.read(compare_size=flags["explain"])
    require_npu_tools()
    roots = _tune_logs(tune_logs)

    from mbv3c.quantization.calibration import calibration_files, folder_inputs

    if calibration is not None:
        calibration_files(calibration)
    progress = Progress()
    loaded = load(progress)
    name = loaded.graph.name if model is None else model.stem
    path = output or Path(f"{name}-npu-{target.device}-int8")

    from mbv3c.targets.ethos_u import backend as npu_pipeline
    from mbv3c.targets.ethos_u import report as npu_report
    from mbv3c.targets.ethos_u.options import NpuOptions

    compiled = npu_pipeline.compile_npu(
        loaded,
        target,
        path,
        folder_inputs(loaded, calibration) if calibration is not None else None,
        NpuOptions(**options, tune_logs=roots),
        force=flags["force"],
        verify=flags["verify"],
        progress=progress,
    )
    if flags["as_json"]:
        print_json(npu_report.compiled_json(compiled, explain=flags["explain"]))
        return
    for line in npu_report.compiled_lines(compiled, explain=flags["explain"]):
        click.echo(line)
