"""The command `mbv3c verify`, its options as a gate, and how a verdict reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands import dry_run, places
from mbv3c.commands.ending import end_verify
from mbv3c.commands.ladder_lines import ladder_lines
from mbv3c.commands.options import (
    PATH,
    Progress,
    all_of,
    echo,
    force_option,
    json_option,
    load_given,
    print_json,
    taken,
)
from mbv3c.commands.preparing import preparing_options, take_overrides
from mbv3c.commands.trusting import place_and_trust, running_options
from mbv3c.commands.verify_dry import verify_plan, verify_work
from mbv3c.commands.verify_images import (
    IMAGES,
    Percent,
    asked_for,
    gate_of,
    image_options,
    inputs_wanted,
    verify_images,
)
from mbv3c.door.formats import check_bundle_folder
from mbv3c.errors import EXIT_DONE, EXIT_PARITY, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mbv3c.execution.device.place import Place
    from mbv3c.parity.gate.baseline import GateRequest
    from mbv3c.parity.gate.gate import GateResult
    from mbv3c.parity.ladder.ladder import Ladder
    from mbv3c.quantization.own_inputs import InputsRequest
    from mbv3c.trust import Trust


_FILE = click.Path(path_type=Path, dir_okay=False)
_LIMITS = {
    "max_abs": "Limit the largest absolute error.",
    "mean_abs": "Limit the mean absolute error.",
    "max_rel": "Limit the largest error relative to the reference's value.",
    "mean_rel": "Limit the mean relative error.",
    "max_of_range": "Limit the largest absolute error over the reference's range.",
    "min_cosine": "Ask for this cosine at least.",
    "min_psnr": "Ask for this PSNR in dB at least.",
    "min_snr": "Ask for this SNR in dB at least.",
    "min_top1": "Ask for this share of equal largest classes at least, from 0 to 1.",
    "min_top5": "Ask for this share of the five largest classes in common at least.",
}
_ALLOWED = {"max_slowdown": "slowdown", "max_growth": "growth", "max_error_growth": "error"}
_FILES = (*("save_outputs", "check", "report", "baseline", "latency"), *("junit", "plot", "html"))
_OF_BUNDLES = ("save_outputs", "report", "baseline", "latency")


# `take_request` reads them.
gate_options = all_of(
    click.option("--metrics", is_flag=True, help="Print a table of metrics."),
    click.option(
        "--save-outputs", type=_FILE, help="Write the reference's and the bundle's outputs."
    ),
    click.option("--check", type=_FILE, help="Judge such a file again, without running anything."),
    *(
        click.option(f"--{name.replace('_', '-')}", type=float, help=help_)
        for name, help_ in _LIMITS.items()
    ),
    click.option(
        "--quantile",
        "quantiles",
        multiple=True,
        metavar="PERCENT:ERROR",
        help="Limit the largest absolute error of so many percent of the values; repeatable.",
    ),
    click.option("--report", type=_FILE, help="Write a report for --baseline."),
    click.option("--latency", is_flag=True, help="Measure the speed for the report, too."),
    click.option("--baseline", type=_FILE, help="Compare with an earlier report."),
    click.option(
        "--max-slowdown",
        type=Percent(),
        help="Let it be so much slower than the baseline at most.  [default: 5%]",
    ),
    click.option(
        "--max-growth",
        type=Percent(),
        help="Let a size in bytes grow by so much at most.  [default: 2%]",
    ),
    click.option(
        "--max-error-growth",
        type=Percent(),
        help="Let an error grow by so much at most, as a share of its tolerance.  [default: 50%]",
    ),
    click.option("--junit", type=_FILE, help="Write all checks as JUnit XML."),
    click.option("--plot", type=_FILE, help="Write pictures of the errors: .png or .svg."),
    click.option("--html", type=_FILE, help="Write all of it as one HTML page."),
)


def take_request(bundle: Path | None, given: dict[str, Any]) -> "GateRequest":
    """Take the options out of what was given, and read them.

    Raises:
        UsageError: they do not go together.
    """
    from mbv3c.parity.gate.baseline import Allowed, GateRequest
    from mbv3c.parity.gate.limits import limits_of

    limits = limits_of(taken(given, *_LIMITS), given.pop("quantiles"))
    allowed = {key: share for key, share in taken(given, *_ALLOWED).items() if share is not None}
    files = taken(given, *_FILES)
    if (files["check"] is None) == (bundle is None):
        raise UsageError("name a bundle, or a file of --save-outputs with --check; one of them")
    refused = [name for name in _OF_BUNDLES if files[name]]
    if bundle is None and refused:
        raise UsageError(f"{_spelled(refused)} takes a bundle, and --check runs none")
    if allowed and files["baseline"] is None:
        raise UsageError(f"{_spelled(list(allowed))} belongs to --baseline")
    if files["latency"] and not (files["report"] or files["baseline"]):
        raise UsageError("--latency belongs to --report or --baseline; `mbv3c bench` prints times")
    _check_places(files)
    shares = {_ALLOWED[option]: share for option, share in allowed.items()}
    return GateRequest(limits=limits, allowed=Allowed(**shares), **files)


def _check_places(files: dict[str, Any]) -> None:
    """Refuse what could not be written in the end, and two files of one name."""
    from mbv3c.figures import check_figure

    if files["save_outputs"] and files["save_outputs"].suffix != ".npz":
        raise UsageError(f"--save-outputs {files['save_outputs']} does not end in .npz")
    if files["plot"]:
        check_figure(files["plot"], force=True)
    seen: dict[Path, str] = {}
    for name, path in files.items():
        if isinstance(path, Path):
            if not path.parent.is_dir():
                raise UsageError(f"{_spelled([name])}: the folder {path.parent} does not exist")
            other = seen.setdefault(path.resolve(), name)
            if other != name:
                options = _spelled([other, name])
                raise UsageError(f"{options} name the same file {path}; choose two")


def _spelled(names: "Sequence[str]") -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def outcome_lines(outcome: "GateResult", *, metrics: bool) -> "Iterator[str]":
    """Say what was checked beside the standing rules."""
    if metrics:
        from mbv3c.parity.gate.limits import tables, text_lines

        for table in tables(outcome.rows):
            yield ""
            yield from text_lines(table)
        yield ""
    limits = [check for check in outcome.checks if check.suite == "limits"]
    if limits:
        kept = sum(check.passed for check in limits)
        yield f"limits: {kept} of {len(limits)} kept"
        yield from (
            f"  MISSED {check.name}: {check.finding}" for check in limits if not check.passed
        )
    compared = [check for check in outcome.checks if check.suite == "baseline"]
    if compared:
        wide = max(len(check.name) for check in compared)
        yield f"baseline: {'passed' if all(check.passed for check in compared) else 'MISSED'}"
        for check in compared:
            yield f"  {'' if check.passed else 'MISSED '}{check.name:<{wide}}  {check.finding}"


@click.command()
@click.argument("bundle", type=places.BUNDLE_OR_MODEL, required=False)
@click.option(
    "--inputs",
    type=places.IMAGES,
    help="Check on your own inputs: a folder of images, .npy or .npz files, or one of them.",
)
@click.option("--ladder", is_flag=True, help="Go stage by stage; BUNDLE may be a model, too.")
@click.option(
    "--target", type=places.TARGET, help="Compile a model on the ladder for this target."
)
@click.option(
    "--precision",
    type=places.PRECISION,
    help="Compile that model in fp32, fp16, bf16 or int8.  [default: fp32, on npu int8]",
)
@click.option(
    "--culprit",
    type=PATH,
    help="Write what reproduces a broken stage to this folder.  [default: culprit-NAME]",
)
@gate_options
@image_options
@preparing_options
@running_options
@dry_run.dry_run_option
@force_option
@json_option
def verify(
    bundle: Path | None,
    inputs: Path | None,
    ladder: bool,
    culprit: Path | None,
    dry: bool,
    force: bool,
    metrics: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Check that a bundle computes what onnxruntime computes on the model as it was given.

    With --ladder, check every stage of compiling by itself, and write the smallest part of the
    model that the first broken stage gets wrong.
    """
    if bundle is not None and not ladder:
        check_bundle_folder(bundle)
    if dry:
        dry_run.show(verify_plan(bundle, inputs, given, ladder), as_json=as_json)
        return
    work = verify_work(bundle, given)
    request = take_request(bundle, given)
    (place, trust), images = place_and_trust(given), taken(given, *IMAGES)
    there = inputs is not None or images["images"] is not None
    overrides = take_overrides(given, "--images or --inputs FOLDER", there=there)
    own = inputs_wanted(inputs, images, overrides)
    target, precision = given["target"], given["precision"]
    from mbv3c.parity.gate.baseline import GateRequest

    gate = metrics or request != GateRequest()
    if own is not None and (bundle is None or ladder):
        raise UsageError("--inputs takes a bundle, and goes with no --ladder and no --check")
    if asked_for(images):
        if bundle is None or ladder or metrics:
            raise UsageError("--images takes a bundle, and goes with no --ladder and no --metrics")
        held = gate_of(images, request)
        if force and images["listing"] is None:
            raise UsageError("--force belongs to --ladder, and to --list FILE of --images")
        verify_images(
            *(bundle, images, overrides, (place, trust), held), force=force, as_json=as_json
        )
        return
    if ladder and bundle is not None:
        if gate:
            raise UsageError(
                "--ladder prints its own table; limits, files and a baseline are not its"
            )
        folder = culprit or _culprit_of(bundle)
        from mbv3c.parity.ladder.reproduce import check_culprit

        check_culprit(folder, force=force)
        with dry_run.noting(work):
            climbed = _climbed(bundle, target, precision, place, trust)
        _report_ladder(climbed, folder, force=force, as_json=as_json)
        return
    if target or precision or culprit or force:
        raise UsageError("--target, --precision, --culprit and --force belong to --ladder")
    if bundle is None and (place is not None or ladder or trust.anyway or trust.key):
        raise UsageError(
            "--ladder, --device, --tracker, --trust and --key take a bundle, and --check runs none"
        )
    with dry_run.noting(work):
        result = _judged(bundle, request, place, own, trust)
    if as_json:
        print_json(result.to_json())
    else:
        echo("\n".join([*result.lines, *outcome_lines(result, metrics=metrics)]))
        end_verify(bundle, result.document, result.checks)
    if result.exit_code != EXIT_DONE:
        raise click.exceptions.Exit(result.exit_code)


def _judged(
    bundle: Path | None,
    request: "GateRequest",
    place: "Place | None",
    own: "InputsRequest | None",
    trust: "Trust",
) -> "GateResult":
    if bundle is not None:
        from mbv3c.pipeline import verify_bundle

        return verify_bundle(bundle, request, Progress(), place, own, trust)
    from mbv3c.parity.gate.gate import check_again

    assert request.check is not None
    return check_again(request.check, request)


def _climbed(
    path: Path,
    target: str | None,
    precision: str | None,
    place: "Place | None",
    trust: "Trust",
) -> "Ladder":
    """Run the ladder of a bundle, or of a model that is compiled for it.

    Raises:
        UsageError: the options do not go together.
        Mbv3cError: what is there cannot be compiled or run.
    """
    from mbv3c import pipeline
    from mbv3c.job_spec import JobSpec

    progress = Progress()
    if path.is_dir():
        if target or precision:
            raise UsageError(f"{path} is a bundle: its target and precision are in its manifest")
        return pipeline.climb_bundle(path, progress, place, trust)
    if target is None:
        raise UsageError(f"{path} is a model: say with --target what to compile it for")
    if place is not None:
        raise UsageError("a device runs bundles: compile the model first")
    job = JobSpec(target, precision).job(progress)
    return pipeline.climb_model(load_given(path), job, progress)


def _culprit_of(path: Path) -> Path:
    """Return the folder for what reproduces a fault, if the user names none."""
    return Path(f"culprit-{path.resolve().stem if path.is_file() else path.resolve().name}")


def _report_ladder(ladder: "Ladder", folder: Path, *, force: bool, as_json: bool) -> None:
    """Print the table and write the culprit, if there is one; exit 3 if a stage breaks."""
    from mbv3c.parity.ladder.reproduce import write_culprit

    written = None
    if ladder.culprit is not None:
        write_culprit(ladder.culprit, folder, force=force)
        written = str(folder)
    if as_json:
        print_json({**ladder.to_json(), "reproduction": written})
    else:
        echo("\n".join(ladder_lines(ladder, written)))
    if not ladder.passed:
        raise click.exceptions.Exit(EXIT_PARITY)
