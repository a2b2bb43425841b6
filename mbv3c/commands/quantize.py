"""The command `mbv3c quantize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands import dry_run
from mbv3c.commands.ending import end_quantize
from mbv3c.commands.options import (
    PATH,
    Progress,
    built_or_loaded,
    echo,
    force_option,
    json_option,
    model_options,
    print_json,
    sampling_options,
    take_sampling,
    taken,
)
from mbv3c.commands.places import FOLDER, MODEL
from mbv3c.commands.preparing import (
    about_images,
    image_lines,
    labels_option,
    preparing_options,
    take_labels,
    take_overrides,
)

if TYPE_CHECKING:
    from mbv3c.execution.times import Work


@click.command()
@click.argument("model", type=MODEL, required=False)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@model_options
@click.option("-o", "--output", type=PATH, required=True, help="Write this .onnx file.")
@click.option(
    "--calibration",
    type=FOLDER,
    help="Take ranges from a folder of images (.jpg, .png) or arrays (.npy, .npz).",
)
@sampling_options
@preparing_options
@labels_option
@click.option("--random-inputs", type=int, help="Take so many random inputs instead.")
@click.option(
    "--input-seed", type=int, help="Draw the random inputs from this seed.  [default: 0]"
)
@click.option("--activations", help="Store activations in int8 or int16.  [default: int8]")
@click.option("--method", help="Find ranges by minmax, percentile or entropy.  [default: minmax]")
@click.option(
    "--percentile", type=float, help="Put this share of values into a range.  [default: 99.99]"
)
@click.option(
    "--keep-float",
    help="Leave so many layers in fp32, the most sensitive, or as few as a budget needs: "
    "auto:40dB.",
)
@click.option("--no-layers", is_flag=True, help="Do not measure every layer by itself: faster.")
@click.option("--explain", is_flag=True, help="List every layer and tensor, not the worst ten.")
@dry_run.dry_run_option
@force_option
@json_option
def quantize(
    model: Path | None,
    output: Path,
    no_layers: bool,
    explain: bool,
    dry: bool,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write a model in int8 with QDQ pairs, and say what that costs and where.

    Without MODEL, take a freshly built MobileNetV3.
    """
    from mbv3c.atomic import check_place, new_file

    check_place(output, force=force)
    work = dry_run.work_of("quantize", dry_run.subject(model, given), "", "int8")
    if dry:
        dry_run.show(_plan(work, model, output, given, layers=not no_layers), as_json=as_json)
        return
    overrides, labels, sampling = take_overrides(given), take_labels(given), take_sampling(given)
    folder, count, seed = taken(given, "calibration", "random_inputs", "input_seed").values()
    wanted = taken(given, "activations", "method", "percentile", "keep_float")
    from mbv3c.quantization import calibration as calibrations
    from mbv3c.quantization import options

    if wanted["keep_float"] is not None:
        wanted["keep_float"] = options.parse_keep_float(wanted["keep_float"])
    chosen = options.from_given(wanted)
    calibrations.check_source(folder, count, seed, sampling)
    progress = Progress()
    from mbv3c.graphs.outputs import with_class_names
    from mbv3c.quantization.images import with_preparing

    with dry_run.noting(work), new_file(output, force=force) as temporary:
        loaded = built_or_loaded(model, given, progress)
        loaded = with_class_names(with_preparing(loaded, overrides), labels)
        about = about_images(loaded)
        from mbv3c.quantization.loss import loss_of
        from mbv3c.quantization.quantize import quantize as quantized_model
        from mbv3c.quantization.report import report_lines

        source = calibrations.inputs_from(loaded, folder, count, seed, sampling=sampling)
        if source.random:
            progress(calibrations.RANDOM_WARNING)
        quantized, report = quantized_model(
            loaded, source, chosen, rank_layers=not no_layers, progress=progress
        )
        temporary.write_bytes(quantized.SerializeToString(deterministic=True))
    loss = loss_of(report)
    if as_json:
        against = {"int8_against_fp32": None if loss is None else loss.to_json()}
        print_json({"model": str(output), **report.to_json(), **about, **against})
        return
    lines = [*image_lines(about), *([] if loss is None else loss.lines())]
    for line in (f"{output}:", *report_lines(report, every=explain), *lines):
        echo(line)
    end_quantize(output, loss, random=report.random_inputs)


def _plan(
    work: "Work", model: Path | None, output: Path, given: dict[str, Any], *, layers: bool
) -> dry_run.Plan:
    """Say what `quantize` would do."""
    steps = [
        dry_run.got(model, work),
        "rewrite the graph",
        dry_run.calibrating(given["calibration"], given["random_inputs"]),
        *(["measure every layer by itself"] if layers else []),
    ]
    return dry_run.Plan(work, steps, dry_run.PREPARING, output)
