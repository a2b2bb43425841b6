"""The command line. Each command converts its arguments, calls one function, prints one result.

onnx, onnxruntime and TVM are imported inside the commands, so that `--help` is instant.
"""

import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mbv3c import __version__, cli_device, cli_tune, cli_verify
from mbv3c.cli_common import Progress as _Progress
from mbv3c.cli_common import json_option as _json_option
from mbv3c.cli_common import print_json as _print_json
from mbv3c.cli_model import (
    batch_option,
    built,
    built_or_loaded,
    force_option,
    load_given,
    model_options,
    opset_option,
)
from mbv3c.cli_precision import precision_options, read_numbers
from mbv3c.cli_verify import sentence
from mbv3c.errors import EXIT_INTERRUPTED, EXIT_PARITY, Mbv3cError, ParityError, UsageError

if TYPE_CHECKING:
    import onnx

    from mbv3c.bench.measure import Instructions, Latency
    from mbv3c.lowering.kernels import Choices
    from mbv3c.pipeline import OptimizedStep
    from mbv3c.targets.npu_request import Request
    from mbv3c.targets.table import Target


def main() -> NoReturn:
    """Run the command line and exit; users' mistakes become one line and an exit code."""
    interrupted = _Interrupted()
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    as_json = "--json" in sys.argv
    try:
        # Without standalone mode click returns the code of an Exit, and None otherwise.
        code = commands.main(standalone_mode=False) or 0
    except Mbv3cError as error:
        code = error.exit_code
        details = {"parity": error.parity} if isinstance(error, ParityError) else {}
        _report(as_json, error.kind, str(error), code, details)
    except click.ClickException as error:
        code = 2
        if not as_json:
            error.show()
        else:
            _report(as_json, "usage", error.format_message(), code, {})
    except (click.Abort, KeyboardInterrupt, RuntimeError):
        # An interrupt inside of TVM's own code comes out of it as a RuntimeError.
        if not interrupted.happened:
            raise
        code = EXIT_INTERRUPTED
        _report(as_json, "interrupted", "interrupted; nothing half written is left", code, {})
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _report(
    as_json: bool, kind: str, message: str, code: int, details: Mapping[str, object]
) -> None:
    click.echo(f"error: {message}", err=True)
    if as_json:
        _print_json({"error": {"kind": kind, "message": message, "exit_code": code, **details}})


class _Interrupted:
    """A signal handler that interrupts like Ctrl-C and remembers that it did."""

    happened = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.happened = True
        raise KeyboardInterrupt


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mbv3c")
def commands() -> None:
    """Compile MobileNetV3 for edge accelerators and prove that it still computes the same."""


commands.add_command(cli_device.commands)
commands.add_command(cli_tune.tune)
commands.add_command(cli_verify.verify)


@commands.command()
@model_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The .onnx file to write.")
@click.option(
    "--save-weights",
    type=click.Path(path_type=Path),
    help="Also write the weights, to a .safetensors or .npz file.",
)
@force_option
@_json_option
def build(
    output: Path | None, save_weights: Path | None, force: bool, as_json: bool, **spec: Any
) -> None:
    """Write MobileNetV3 as an ONNX graph, with seeded or trained weights."""
    from mbv3c.atomic import new_file
    from mbv3c.graphs import weights
    from mbv3c.graphs.count import count

    model = built(spec)
    path = output or Path(f"{model.graph.name}.onnx")
    with new_file(path, force=force) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        if save_weights is not None:
            with new_file(save_weights, force=force) as temporary_weights:
                weights.save_weights(model, temporary_weights)
    counts = count(model)
    saved = str(save_weights) if save_weights is not None else None
    if as_json:
        _print_json(
            {
                "model": str(path),
                "weights": saved,
                "params": counts.params,
                "madds": counts.madds,
            }
        )
        return
    click.echo(f"{path}: {counts.params:,} parameters, {counts.madds:,} multiply-adds")
    if saved:
        click.echo(f"{saved}: the weights")


@commands.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@batch_option
@click.option("--opset", type=int, help="Write OUTPUT in this opset, 11 to 18.")
@click.option("--explain", is_flag=True, help="List every rewritten node, too.")
@click.option(
    "--prove",
    is_flag=True,
    help="Check every rewrite by itself against onnxruntime, and leave out what fails.",
)
@force_option
@_json_option
def optimize(
    model: Path,
    output: Path,
    input_shape: str | None,
    batch: int | None,
    opset: int | None,
    explain: bool,
    prove: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Rewrite an ONNX graph and say what each pass did and why it refused."""
    from mbv3c import pipeline
    from mbv3c.atomic import new_file

    loaded = load_given(model, input_shape, batch)
    with new_file(output, force=force) as temporary:
        optimized, steps = pipeline.optimize(loaded, proving=prove, opset=opset)
        temporary.write_bytes(optimized.SerializeToString(deterministic=True))
    failed = [
        {"pass": step.report.name, "node": proof.node, "reason": proof.verdict.reason}
        for step in steps
        for proof in step.failed
    ]
    if as_json:
        passes = [step.to_json() for step in steps]
        proof_failed = failed if prove else None
        _print_json({"model": str(output), "passes": passes, "proof_failed": proof_failed})
    else:
        _print_steps(steps, explain, prove)
        if failed:
            first = failed[0]
            click.echo(
                f"PROOF FAILED for {len(failed)} rewrites, first {first['pass']} at "
                f"{first['node']}; none of them was made: {output} computes what {model} does"
            )
    if failed:
        raise click.exceptions.Exit(EXIT_PARITY)


def _print_steps(steps: "list[OptimizedStep]", explain: bool, prove: bool) -> None:
    """Print the table of `optimize`, then what was rewritten and refused where."""
    proved = f"{'proved':>10}{'worst proof':>13}" if prove else ""
    click.echo(
        f"{'pass':<18}{'matched':>8}{'refused':>8}{'nodes':>14}{proved}  largest error of range"
    )
    busy = [step for step in steps if step.report.changed or step.report.refused]
    for step in busy:
        report = step.report
        nodes = f"{report.nodes_before} → {report.nodes_after}"
        click.echo(
            f"{report.name:<18}{len(report.matched):>8}{len(report.refused):>8}{nodes:>14}"
            f"{_proved(step) if prove else ''}  {step.max_error_of_range:.1e}"
        )
    if len(busy) < len(steps):
        click.echo(f"{len(steps) - len(busy)} other passes found nothing to do")
    for step in steps:
        for name in step.report.matched if explain else ():
            click.echo(f"{step.report.name} rewrote {name}")
        for refusal in step.report.refused:
            click.echo(f"{step.report.name} refused {refusal.node}: {refusal.reason}")
    verdicts = [proof.verdict for step in steps for proof in step.report.proofs]
    sound = [verdict for verdict in verdicts if verdict.passed]
    if prove and not verdicts:
        click.echo("nothing to prove: no rewrite fits")
    if sound:
        worst = max(sound, key=lambda verdict: verdict.max_error_of_range)
        click.echo(
            f"{len(sound)} of {len(verdicts)} proofs passed, each rewrite by itself against "
            f"onnxruntime: largest error {worst.max_error_of_range:.1e} of range "
            f"(allowed {worst.allowed:.1e})"
        )


def _proved(step: "OptimizedStep") -> str:
    verdicts = [proof.verdict for proof in step.report.proofs]
    if not verdicts:
        return f"{'':>23}"
    count = f"{sum(verdict.passed for verdict in verdicts)}/{len(verdicts)}"
    worst = max(verdict.max_error_of_range for verdict in verdicts)
    return f"{count:>10}{worst:>13.1e}"


@commands.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@model_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Folder of images (.jpg, .png) or arrays (.npy, .npz) to take ranges from.",
)
@click.option("--random-inputs", type=int, help="Take so many random inputs instead.")
@click.option("--input-seed", type=int, help="Seed of the random inputs.  [default: 0]")
@click.option("--activations", help="int8 or int16.  [default: int8]")
@click.option("--method", help="minmax, percentile or entropy.  [default: minmax]")
@click.option("--percentile", type=float, help="Share of values in a range.  [default: 99.99]")
@click.option(
    "--keep-float",
    help="Leave so many layers in fp32, the most sensitive, or as few as a budget needs: "
    "auto:40dB.",
)
@click.option("--no-layers", is_flag=True, help="Do not measure every layer by itself: faster.")
@click.option("--explain", is_flag=True, help="List every layer and tensor, not the worst ten.")
@force_option
@_json_option
def quantize(
    model: Path | None,
    input_shape: str | None,
    output: Path,
    calibration: Path | None,
    random_inputs: int | None,
    input_seed: int | None,
    activations: str | None,
    method: str | None,
    percentile: float | None,
    keep_float: str | None,
    no_layers: bool,
    explain: bool,
    force: bool,
    as_json: bool,
    **spec: Any,
) -> None:
    """Write a model in int8 with QDQ pairs, and say what that costs and where.

    Without MODEL, of a freshly built MobileNetV3.
    """
    from mbv3c.atomic import new_file
    from mbv3c.quantization import calibration as calibrations
    from mbv3c.quantization import options
    from mbv3c.quantization.quantize import quantize as quantized_model
    from mbv3c.quantization.report import report_lines

    keep = options.parse_keep_float(keep_float) if keep_float is not None else None
    given = {
        "activations": activations,
        "method": method,
        "percentile": percentile,
        "keep_float": keep,
    }
    chosen = options.from_given(given)
    progress = _Progress()
    with new_file(output, force=force) as temporary:
        calibrations.check_source(calibration, random_inputs, input_seed)
        loaded = built_or_loaded(model, spec, input_shape, None, progress)
        source = calibrations.inputs_from(loaded, calibration, random_inputs, input_seed)
        if source.random:
            progress(calibrations.RANDOM_WARNING)
        quantized, report = quantized_model(
            loaded, source, chosen, rank_layers=not no_layers, progress=progress
        )
        temporary.write_bytes(quantized.SerializeToString(deterministic=True))
    if as_json:
        _print_json({"model": str(output), **report.to_json()})
        return
    for line in (f"{output}:", *report_lines(report, every=explain)):
        click.echo(line)


def _npu_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


@commands.command(name="compile")
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
@_json_option
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
    from mbv3c.targets import npu_request
    from mbv3c.targets.npu_table import is_npu
    from mbv3c.targets.table import find_target, with_cores

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
    progress = _Progress()
    loaded = built_or_loaded(model, spec, input_shape, opset, progress)
    name = loaded.graph.name if model is None else model.stem
    path = output or Path(f"{name}-{found.family}-{found.device}-{numbers.precision}")
    source = numbers.calibration(loaded)

    from mbv3c import pipeline
    from mbv3c.kernel_table import kernel_lines
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
        _print_json({"bundle": str(path), "target": found.name, "parity": parity, **explained})
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


def _choices(target: "Target", given: Path | None, progress: Callable[[str], None]) -> "Choices":
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
    from mbv3c.targets.npu_tools import require_npu_tools

    target, options = request.read(compare_size=flags["explain"])
    require_npu_tools()
    roots = _tune_logs(tune_logs)

    from mbv3c.quantization.calibration import calibration_files, folder_inputs

    if calibration is not None:
        calibration_files(calibration)
    progress = _Progress()
    loaded = load(progress)
    name = loaded.graph.name if model is None else model.stem
    path = output or Path(f"{name}-npu-{target.device}-int8")

    from mbv3c import npu_pipeline, npu_report
    from mbv3c.targets.npu_knobs import NpuOptions

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
        _print_json(npu_report.compiled_json(compiled, explain=flags["explain"]))
        return
    for line in npu_report.compiled_lines(compiled, explain=flags["explain"]):
        click.echo(line)


@commands.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "source", type=click.Path(path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--raw", is_flag=True, help="Of a detector: its outputs as they are.")
@click.option(
    "--score-threshold", type=float, help="Least score of a detection.  [default: 0.001]"
)
@click.option("--nms-threshold", type=float, help="Most overlap in a class.  [default: 0.55]")
@click.option("--topk-candidates", type=int, help="Boxes of a class considered.  [default: 300]")
@click.option("--detections", type=int, help="Boxes of an image reported.  [default: 300]")
@cli_device.device_options
@force_option
@_json_option
def run(
    bundle: Path,
    source: Path,
    output: Path,
    raw: bool,
    device: str | None,
    tracker: str | None,
    key: str | None,
    timeout: float | None,
    force: bool,
    as_json: bool,
    **given: float | None,
) -> None:
    """Run one inference: fp32 .npy in, .npy out, or .npz with every output by its name.

    Of a detector the .npz holds boxes (left, top, right, bottom in pixels of the input), scores,
    labels and images (which image of the batch), after non-maximum suppression by class.
    """
    from mbv3c import pipeline
    from mbv3c.atomic import new_file
    from mbv3c.execution.detection import Thresholds

    limits: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    thresholds = Thresholds(**limits) if limits else None
    place = cli_device.place_of(device, tracker, key, timeout)
    with new_file(output, force=force) as temporary:
        ran = pipeline.run_bundle(
            bundle, source, temporary, raw=raw, thresholds=thresholds, place=place
        )
    shapes = {name: list(array.shape) for name, array in ran.arrays.items()}
    first, *others = shapes.values()
    if as_json:
        arrays = [{"name": name, "shape": shape} for name, shape in shapes.items()]
        only = None if others else first
        _print_json({"output": str(output), "shape": only, "arrays": arrays, "ran_on": ran.ran_on})
        return
    listed = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    click.echo(f"{output}: {', '.join(listed)}, computed on {ran.ran_on}")


@commands.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--against", help="onnxruntime or openvino.  [default: onnxruntime]")
@click.option("--threads", type=int, help="Of both sides.  [default: the bundle's cores]")
@click.option("--runs", type=int, help="Timed inferences of each side.  [default: 200]")
@click.option("--profile", is_flag=True, help="Go kernel by kernel, too.")
@_json_option
def bench(bundle: Path, as_json: bool, **given: Any) -> None:
    """Time a bundle beside another runtime; count its instructions where it runs emulated."""
    from mbv3c.bench import measure

    measured = measure.measure(bundle, measure.Request(**given), _Progress())
    if as_json:
        _print_json({"bundle": str(bundle), **measure.to_json(measured)})
        return
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    if isinstance(measured, measure.Latency):
        _print_latency(bundle, measured, versions)
    else:
        _print_instructions(bundle, measured, versions)


def _print_latency(bundle: Path, measured: "Latency", versions: str) -> None:
    wide = max(len(str(bundle)), len(measured.against)) + 2
    for name, times in ((str(bundle), measured.ours), (measured.against, measured.theirs)):
        click.echo(f"{name:<{wide}}median {times.median_ms:8.3f} ms, min {times.min_ms:8.3f} ms")
    lower, upper = measured.ratio.quartiles
    click.echo(
        f"ratio {measured.ratio.median:.3f} (quartiles {lower:.3f} to {upper:.3f}; below 1 is "
        f"faster than {measured.against}), {measured.runs} runs each, threads {measured.threads}"
    )
    if not measured.undisturbed:
        click.echo(
            f"the machine was busy ({measured.interruptions} interruptions): times and ratio are "
            "uncertain, measure again when it is idle"
        )
    click.echo(f"{measured.cpu}; {versions}")
    if measured.kernels is None:
        return
    click.echo(f"\n{'kernel':<20}{'us':>9}{'share':>7}{'GFLOP/s':>9}  nodes")
    for one in measured.kernels:
        click.echo(
            f"{one.kernel:<20}{one.us:>9.1f}{one.share:>7.1%}{one.gflops:>9.1f}  "
            f"{_first_of(one.nodes)}"
        )
    click.echo(f"{'sum':<20}{sum(one.us for one in measured.kernels):>9.1f}")


def _print_instructions(bundle: Path, measured: "Instructions", versions: str) -> None:
    click.echo(
        f"{bundle}: {measured.executed:,} instructions executed per inference, on one core of an "
        f"emulated {measured.cpu}"
    )
    for name, executed in measured.classes.items():
        click.echo(f"{name:<16}{executed:>14,}{executed / measured.executed:>8.1%}")
    click.echo(f"counted, not timed: emulation says nothing about time; {versions}")
    if measured.kernels is None:
        return
    cycles = measured.cycles
    heads = f"{'calls':>7}{'instructions':>14}{'share':>7}{'madds/instr':>12}"
    estimated = f"{'est. cycles':>13}{'share':>7}" if cycles else ""
    click.echo(f"\n{'kernel':<20}{heads}{estimated}  nodes")
    for one in measured.kernels:
        if cycles:
            of = one.estimated_cycles or 0
            estimated = f"{of:>13,}{of / cycles.total:>7.1%}"
        click.echo(
            f"{one.kernel:<20}{one.calls:>7}{one.instructions:>14,}{one.share:>7.1%}"
            f"{one.madds_per_instruction:>12.2f}{estimated}  {_first_of(one.nodes)}"
        )
    if cycles is None:
        from mbv3c.execution.llvm import LLVM_REMEDY

        click.echo(f"no cycles estimated: llvm-mca is not here; {LLVM_REMEDY}")
        return
    click.echo(
        f"estimated, not measured: {cycles.total:,} cycles per inference, by {cycles.model}; "
        "caches are not modelled"
        + (f"; {cycles.left_out:,} instructions left out" if cycles.left_out else "")
    )


def _first_of(nodes: tuple[str, ...]) -> str:
    return f"{nodes[0]} and {len(nodes) - 1} more" if len(nodes) > 1 else "".join(nodes)


@commands.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@batch_option
@opset_option
@_json_option
def inspect(
    model: Path,
    input_shape: str | None,
    batch: int | None,
    opset: int | None,
    as_json: bool,
) -> None:
    """Say what a model is, what each layer costs, and what `optimize` would do to it.

    Of a bundle: its kernels, its weights and where its activations lie.
    """
    if model.is_dir():
        if any(value is not None for value in (input_shape, batch, opset)):
            raise UsageError(
                "--input-shape, --batch and --opset belong to a model, not to a bundle"
            )
        _inspect_bundle(model, as_json)
        return
    from dataclasses import asdict

    from mbv3c.graphs import inspection
    from mbv3c.graphs.recognition import recognize
    from mbv3c.passes import run_pipeline
    from mbv3c.passes.simplify import simplify

    loaded = load_given(model, input_shape, batch, opset)
    inspected = inspection.inspect(loaded, simplify(loaded)[0])
    optimized, reports = run_pipeline(loaded)
    found = recognize(optimized)
    if as_json:
        _print_json(
            {
                "architecture": found.to_json(),
                **asdict(inspected.totals),
                "peak_activation_bytes": inspected.peak_activation_bytes,
                "layers": [asdict(layer) for layer in inspected.layers],
                "passes": [
                    {key: value for key, value in asdict(report).items() if key != "proofs"}
                    for report in reports
                ],
            }
        )
        return
    totals = inspected.totals
    wide = max(len(layer.name) for layer in inspected.layers) + 2
    click.echo(f"{model}: {found.sentence}\n")
    click.echo(
        f"{'layer':<{wide}}{'operator':<20}{'output':<18}{'parameters':>12}{'multiply-adds':>15}"
        f"{'activation bytes':>18}"
    )
    for layer in inspected.layers:
        shape = "x".join(map(str, layer.output_shape))
        click.echo(
            f"{layer.name:<{wide}}{layer.operator:<20}{shape:<18}{layer.params:>12,}"
            f"{layer.madds:>15,}{layer.activation_bytes:>18,}"
        )
    click.echo(f"{'total':<{wide + 38}}{totals.params:>12,}{totals.madds:>15,}\n")
    click.echo(
        f"peak activation memory: {inspected.peak_activation_bytes:,} bytes, computed and not "
        "measured: the largest sum of tensors\nalive at once when the nodes run in this order, "
        "each from the node that makes it to its last use,\ninput and output included, weights "
        "excluded, nothing in place\n"
    )
    click.echo(f"{'optimize would run':<20}{'matched':>8}{'refused':>8}{'nodes':>14}")
    for report in reports:
        nodes = f"{report.nodes_before} → {report.nodes_after}"
        click.echo(f"{report.name:<20}{len(report.matched):>8}{len(report.refused):>8}{nodes:>14}")
    for report in reports:
        for refusal in report.refused:
            click.echo(f"{report.name} would refuse {refusal.node}: {refusal.reason}")


def _inspect_bundle(path: Path, as_json: bool) -> None:
    from mbv3c.bundle import read_bundle
    from mbv3c.kernel_table import kernel_lines, memory_lines

    manifest = read_bundle(path).manifest
    if "npu" in manifest:
        from mbv3c import npu_report

        if as_json:
            _print_json(npu_report.inspected_json(manifest))
            return
        click.echo("\n".join(npu_report.inspected_lines(path, manifest)))
        return
    if as_json:
        keys = ("model", "target", "precision", "input", "outputs", "kernels", "memory", "parity")
        _print_json({key: manifest[key] for key in keys})
        return
    target = manifest["target"]
    click.echo(
        f"{path}: {manifest['model']['name']} for {target['name']} ({target['cpu']}, "
        f"{target['cores']} cores), {manifest['precision']}\n"
    )
    for line in (*kernel_lines(manifest["kernels"]), "", *memory_lines(manifest["memory"])):
        click.echo(line)
    parity = manifest["parity"]
    click.echo(f"\nparity: {sentence(parity)}" if parity else "\nparity: not checked")


@commands.command()
@_json_option
def targets(as_json: bool) -> None:
    """List what mbv3c compiles for."""
    from dataclasses import asdict

    from mbv3c.targets.npu_table import DEFAULT_NPU, NPU_TARGETS
    from mbv3c.targets.table import DEFAULT_DEVICES, TARGETS

    if as_json:
        listed = [
            {
                "name": target.name,
                "triple": target.triple,
                "cpu": target.cpu,
                "default": DEFAULT_DEVICES[target.family] == target.device,
                "emulated_as": target.emulated_as or None,
                "gpu": target.gpu or None,
                "isa": target.isa or None,
            }
            for target in TARGETS
        ]
        npus = [
            {"name": npu.name, **asdict(npu), "default": npu.device == DEFAULT_NPU}
            for npu in NPU_TARGETS
        ]
        _print_json({"targets": listed, "npu_targets": npus})
        return
    click.echo(f"{'target':<33}{'triple':<24}{'verified here on':<24}example")
    for target in TARGETS:
        star = "*" if DEFAULT_DEVICES[target.family] == target.device else ""
        where = f"emulated {target.emulated_as}" if target.emulated_as else "this machine"
        where = f"a machine with {target.isa}" if target.isa else where
        where = "an OpenCL device" if target.gpu else where
        click.echo(f"{target.name + star:<33}{target.triple:<24}{where:<24}{target.example}")
    click.echo(f"\n{'target':<33}{'MACs':>5}{'MHz':>6}  {'SRAM':<9}{'verified here on':<24}system")
    for npu in NPU_TARGETS:
        star = "*" if npu.device == DEFAULT_NPU else ""
        sram = f"{npu.sram_bytes >> 10} KiB" if npu.sram_bytes else "shared"
        where = "interpreted stream" if npu.interpreted else "TOSA reference model"
        click.echo(
            f"{npu.name + star:<33}{npu.macs:>5}{npu.clock_mhz:>6}  {sram:<9}{where:<24}"
            f"{npu.system_config}"
        )
    click.echo("* the family's default")


@commands.command()
@click.option(
    "--fetch",
    is_flag=False,
    flag_value="all",
    type=click.Choice(["all", "emulator", "opencl", "cycles"]),
    help="Download and build what is missing, or only the emulator of arm_cpu, what runs and "
    "checks OpenCL (--fetch=opencl), or what estimates cycles; needs no root.",
)
@_json_option
def doctor(fetch: str | None, as_json: bool) -> None:
    """Say what is missing to compile and to verify; exit 1 if something is."""
    from mbv3c.execution import llvm, toolbox

    progress = _Progress()
    if fetch in ("all", "emulator"):
        toolbox.fetch(progress)
    if fetch in ("all", "opencl"):
        toolbox.fetch_opencl(progress)
    if fetch in ("all", "cycles"):
        llvm.fetch_llvm(progress)
    parts = toolbox.diagnose()
    healthy = all(part.ok or part.optional for part in parts)
    if as_json:
        rows = [
            {
                "name": part.name,
                "ok": part.ok,
                "optional": part.optional,
                "detail": part.detail,
                "remedy": part.remedy or None,
            }
            for part in parts
        ]
        _print_json({"healthy": healthy, "parts": rows})
    else:
        for part in parts:
            state = "ok" if part.ok else "absent" if part.optional else "MISSING"
            click.echo(f"{state:<9}{part.name:<17}{part.detail}")
            if not part.ok:
                click.echo(f"{'':<9}{'':<17}→ {part.remedy}")
    if not healthy:
        raise click.exceptions.Exit(1)
