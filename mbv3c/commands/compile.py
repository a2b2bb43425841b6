"""The command `mbv3c compile`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands import dry_run
from mbv3c.commands.ending import end_compile
from mbv3c.commands.ends import ends_options, take_ends
from mbv3c.commands.options import (
    PATH,
    Progress,
    all_of,
    built_or_loaded,
    force_option,
    json_option,
    model_options,
    opset_option,
    parse_shapes,
    precision_options,
    print_description,
    take_sampling,
    taken,
)
from mbv3c.commands.places import FILE, MODEL, target_option
from mbv3c.commands.preparing import (
    about_images,
    image_lines,
    other_preparing_options,
    take_overrides,
)
from mbv3c.precision import find_precision
from mbv3c.targets import every_option

if TYPE_CHECKING:
    import onnx

    from mbv3c.ends.ends import Ends
    from mbv3c.execution.times import Work
    from mbv3c.quantization.images import Overrides

_BACKEND_OPTIONS = every_option()
# Numbers for the pixels of images, and words for a backend: one option has both meanings.
_MEAN = "mean"

# The options of all backends.
backend_options = all_of(
    *(
        click.option(option.flag, is_flag=True, default=None, help=option.help)
        if option.type is bool
        else click.option(option.flag, type=option.type, help=option.help)
        for option in _BACKEND_OPTIONS
        if option.name != _MEAN
    )
)
mean_option = click.option(
    f"--{_MEAN}",
    _MEAN,
    multiple=True,
    help="; ".join(
        ["Subtract this mean from pixels of 0..1, a number or three"]
        + [option.help for option in _BACKEND_OPTIONS if option.name == _MEAN]
    ),
)


@click.command(name="compile")
@click.argument("model", type=MODEL, required=False)
@target_option
@precision_options
@mean_option
@other_preparing_options
@ends_options
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@click.option(
    "--input-shapes",
    multiple=True,
    help="Put several shapes into one bundle, which share their weights: '224x224 320x320', "
    "or whole ones; for several inputs 'image:1,3,224,224 state:1,8; image:1,3,320,320 "
    "state:1,8'.",
)
@opset_option
@model_options
@backend_options
@click.option("-o", "--output", type=PATH, help="Write the bundle to this folder.")
@click.option("--no-verify", is_flag=True, help="Do not check parity.")
@click.option("--sign", type=FILE, help="Sign the bundle with this private key: Ed25519, PEM.")
@click.option(
    "--explain", is_flag=True, help="List what computes each operator; on npu, what it costs."
)
@click.option(
    "--tune-logs",
    type=PATH,
    help="Take tuning databases from this folder, or `none`.  [default: ./tune_logs, then "
    "those shipped]",
)
@dry_run.dry_run_option
@force_option
@json_option
def compile_(
    model: Path | None,
    output: Path | None,
    no_verify: bool,
    sign: Path | None,
    explain: bool,
    dry: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compile an ONNX file, or without MODEL a freshly built MobileNetV3, to a bundle."""
    from mbv3c.atomic import check_free
    from mbv3c.trust import read_signer

    if output is not None:
        check_free(output, force=force)
    means = given.pop(_MEAN)
    words, numbers = ([one for one in means if one.isalpha() is word] for word in (True, False))
    given[_MEAN] = numbers[-1] if numbers else None
    preparing = take_overrides(given)
    ends, preparing = take_ends(given, preparing)
    given[_MEAN] = words[-1] if words else None
    named = taken(given, "target", "precision", "calibration", "keep_float", "tune_logs")
    options = taken(given, *(option.name for option in _BACKEND_OPTIONS))
    for option in _BACKEND_OPTIONS:
        option.check(options[option.name])
    shapes = given["input_shapes"] = parse_shapes(given["input_shapes"])
    work = _work(model, named, given)
    if dry:
        dry_run.show(_plan(work, model, output, named, verify=not no_verify), as_json=as_json)
        return
    progress = Progress()
    signer = read_signer(sign) if sign is not None else None
    sampling = take_sampling(given)
    with dry_run.noting(work):
        loaded = built_or_loaded(model, given, progress)
        _check_images(loaded, preparing, ends)
        from mbv3c.job_spec import JobSpec
        from mbv3c.pipeline import compile_model

        spec = JobSpec(
            **named,
            options=options,
            explain=explain,
            preparing=preparing,
            shapes=shapes if len(shapes) > 1 else (),
            ends=ends,
            sampling=sampling,
        )
        job = spec.job(progress)
        name = loaded.graph.name if model is None else model.stem
        path = output or Path(f"{name}-{job.target.family}-{job.target.device}-{job.precision}")
        compiled = compile_model(
            loaded,
            spec.calibrated(job, loaded),
            path,
            force=force,
            verify=not no_verify,
            progress=progress,
            signer=signer,
        )
    from mbv3c.bundle import read_bundled
    from mbv3c.targets import backend_of

    described = backend_of(job.target).describe_compiled(compiled, explain=explain)
    about = about_images(read_bundled(compiled.bundle.model))
    added = {
        **about,
        "int8_against_fp32": None if compiled.loss is None else compiled.loss.to_json(),
    }
    lines = [*described.lines, *image_lines(about)]
    lines += [] if compiled.loss is None else compiled.loss.lines()
    print_description(
        replace(described, document={**described.document, **added}, lines=lines), as_json=as_json
    )
    if not as_json:
        checks = compiled.verdict.checks() if compiled.verdict else ()
        # What TVM's runtime loads, its servers run, too.
        served = bool(backend_of(job.target).needed)
        end_compile(path, described.document["parity"], checks, served=served)


def _check_images(model: "onnx.ModelProto", preparing: "Overrides", ends: "Ends") -> None:
    """Refuse at once what a model cannot be told of its images and classes."""
    from mbv3c.graphs.outputs import with_class_names
    from mbv3c.quantization.images import described, with_preparing

    described(with_preparing(model, preparing))
    if ends.frame is not None:
        with_preparing(model, ends.frame.preparing)
    with_class_names(model, ends.labels)


def _work(model: Path | None, named: dict[str, Any], network: dict[str, Any]) -> "Work":
    """Return what is compiled, by the options that say so."""
    target = dry_run.target_named(named["target"])
    precision = dry_run.precision_named(target, named["precision"])
    return dry_run.work_of("compile", dry_run.subject(model, network), target, precision)


def _plan(
    work: "Work", model: Path | None, output: Path | None, named: dict[str, Any], *, verify: bool
) -> dry_run.Plan:
    """Say what `compile` would do."""
    steps = [
        dry_run.got(model, work),
        *(
            [dry_run.calibrating(named["calibration"])]
            if find_precision(work.precision).quantized
            else []
        ),
        "rewrite the graph",
        f"compile for {work.target} in {work.precision}",
        "run it beside onnxruntime, and every kernel by itself" if verify else "verify nothing",
    ]
    name = "a folder named after the network"
    if model is not None:
        name = f"{model.stem}-{work.target.replace(':', '-')}-{work.precision}"
    return dry_run.Plan(work, steps, dry_run.COMPILING, output or name)
