"""The command `mbv3c verify`, and how a verdict reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import device_options, force_option, load_given, place_of
from mbv3c.commands.output import Progress, json_option, print_json
from mbv3c.commands.verify_gate import gate_options, outcome_lines, take_request
from mbv3c.commands.verify_images import asked_for, image_options, verify_images
from mbv3c.commands.verify_ladder import ladder_lines
from mbv3c.errors import EXIT_DONE, EXIT_PARITY, UsageError

if TYPE_CHECKING:
    from mbv3c.execution.device.place import Place
    from mbv3c.parity.gate.gate import GateResult
    from mbv3c.parity.gate.request import GateRequest
    from mbv3c.parity.ladder.ladder import Ladder


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--ladder", is_flag=True, help="Go stage by stage; BUNDLE may be a model, too.")
@click.option("--target", help="Of a model on the ladder: what to compile it for.")
@click.option("--precision", help="Likewise: fp32, fp16 or int8.  [default: fp32, on npu int8]")
@click.option(
    "--culprit",
    type=click.Path(path_type=Path),
    help="Folder for what reproduces a broken stage.  [default: culprit-NAME]",
)
@gate_options
@image_options
@device_options
@force_option
@json_option
def verify(
    bundle: Path | None,
    ladder: bool,
    target: str | None,
    precision: str | None,
    culprit: Path | None,
    force: bool,
    metrics: bool,
    images: dict[str, Any],
    as_json: bool,
    **given: Any,
) -> None:
    """Check that a bundle computes what onnxruntime computes on the model as it was given.

    With --ladder every stage of compiling is checked by itself, and of the first that breaks the
    smallest part of the model that it gets wrong is written.
    """
    request = take_request(bundle, given)
    place = place_of(**given)
    if asked_for(images):
        from mbv3c.parity.gate.request import GateRequest

        if bundle is None or ladder or metrics or request != GateRequest():
            raise UsageError(
                "--images takes a bundle, and goes with no --ladder, --metrics, limits, files "
                "or baseline"
            )
        verify_images(bundle, images, as_json, place)
        return
    if ladder and bundle is not None:
        from mbv3c.parity.gate.request import GateRequest
        from mbv3c.parity.ladder.reproduce import check_culprit

        if metrics or request != GateRequest():
            raise UsageError(
                "--ladder prints its own table; limits, files and a baseline are not its"
            )
        folder = culprit or _culprit_of(bundle)
        check_culprit(folder, force=force)
        climbed = _climbed(bundle, target, precision, place)
        _report_ladder(climbed, folder, force=force, as_json=as_json)
        return
    if target or precision or culprit or force:
        raise UsageError("--target, --precision, --culprit and --force belong to --ladder")
    outcome = _judged(bundle, request, place, ladder=ladder)
    if as_json:
        print_json(outcome.to_json())
    else:
        click.echo("\n".join([*_verdict(outcome), *outcome_lines(outcome, metrics=metrics)]))
    if outcome.exit_code != EXIT_DONE:
        raise click.exceptions.Exit(outcome.exit_code)


def _judged(
    bundle: Path | None,
    request: "GateRequest",
    place: "tuple[Place, float] | None",
    *,
    ladder: bool,
) -> "GateResult":
    if bundle is not None:
        return _verified(bundle, request, place)
    if place is not None or ladder:
        raise UsageError("--ladder, --device and --tracker take a bundle, and --check runs none")
    from mbv3c.parity.gate.gate import check_again

    assert request.check is not None
    return check_again(request.check, request)


def _verified(
    bundle: Path, request: "GateRequest", place: "tuple[Place, float] | None"
) -> "GateResult":
    from mbv3c.bundle import is_npu_bundle
    from mbv3c.parity.gate.gate import Verdict, verify_and_judge

    progress, is_npu = Progress(), is_npu_bundle(bundle) and place is None
    if is_npu:
        from mbv3c.targets.ethos_u.tools import require_npu_tools

        require_npu_tools()

    def run() -> "Verdict":
        if is_npu:
            from mbv3c.targets.ethos_u.backend import verify_npu

            return verify_npu(bundle)
        from mbv3c import pipeline

        return pipeline.verify_bundle(bundle, progress, place)

    return verify_and_judge(bundle, request, run, progress, here=place is None)


def _verdict(outcome: "GateResult") -> list[str]:
    """Say the verdict by the standing rules; of saved outputs perhaps that of limits instead."""
    document = outcome.document
    if "operators_alone" in document:
        from mbv3c.targets.ethos_u.report import sentences

        return sentences(document)
    origin = f"outputs of {document['saved']['bundle']}, " if "saved" in document else ""
    if "max_error_of_range" not in document:
        passed = "MISSED" if outcome.exit_code else "passed"
        return [f"{origin}by the limits given: {passed} on {document['ran_on']}"]
    return [f"{origin}parity: {sentence(document)}"]


def _climbed(
    path: Path, target: str | None, precision: str | None, place: "tuple[Place, float] | None"
) -> "Ladder":
    """Run the ladder of a bundle, or of a model that is compiled for it.

    Raises:
        UsageError: the options do not go together.
        Mbv3cError: what is there cannot be compiled or run.
    """
    from mbv3c.bundle import is_npu_bundle

    progress = Progress()
    if path.is_dir():
        if target or precision:
            raise UsageError(f"{path} is a bundle: its target and precision are in its manifest")
        if is_npu_bundle(path) and place is None:
            from mbv3c.targets.ethos_u.tools import require_npu_tools

            require_npu_tools()
            from mbv3c.targets.ethos_u.ladder import climb_npu

            return climb_npu(path, progress)
        from mbv3c.targets.library_stages import climb

        return climb(path, progress, place)
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}")
    if target is None:
        raise UsageError(f"{path} is a model: say with --target what to compile it for")
    if place is not None:
        raise UsageError("a device runs bundles: compile the model first")
    from mbv3c.targets.ethos_u.devices import is_npu
    from mbv3c.targets.table import find_target

    model = load_given(path, None, None)
    if is_npu(target):
        if precision not in (None, "int8"):
            raise UsageError(f"{target} computes in int8; leave --precision {precision} out")
        from mbv3c.targets.ethos_u.tools import require_npu_tools

        require_npu_tools()
        from mbv3c.targets.ethos_u.devices import find_npu
        from mbv3c.targets.ethos_u.ladder import climb_npu_model

        return climb_npu_model(model, find_npu(target), progress)
    from mbv3c.targets.library_stages import climb_model

    return climb_model(model, find_target(target), precision or "fp32", progress)


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
        click.echo("\n".join(ladder_lines(ladder, written)))
    if not ladder.passed:
        raise click.exceptions.Exit(EXIT_PARITY)


def sentence(parity: dict[str, Any]) -> str:
    """Say a verdict in one line."""
    error, top1 = parity["max_error_of_range"], parity["top1_agreement"]
    agreement = "" if top1 is None else f"top-1 agreement {top1:.0%}, "
    return (
        f"{'passed' if parity['passed'] else 'MISSED'} on {parity['ran_on']}: max error "
        f"{'not finite' if error is None else f'{error:.1e}'} of range in "
        f"{parity['worst_output']} (allowed "
        f"{parity['tolerance']:.1e}; onnxruntime itself spreads by "
        f"{parity['reference_spread']:.1e}), cosine {parity['cosine']:.9f}, "
        f"{agreement}over {len(parity['inputs'])} inputs{_kernels_alone(parity)}"
        f"{_quantization_loss(parity)}"
    )


def _kernels_alone(parity: dict[str, Any]) -> str:
    """Say what the kernels of a quantized network have shown by themselves."""
    found = parity.get("kernels_alone")
    if found is None:
        return ""
    if not found["passed"]:
        return "; WRONG by themselves: " + "; ".join(found["missed"])
    return (
        f"; each of {found['count']} kernels by itself: {found['differing']} of "
        f"{found['values']:,} values differ, all at ties"
    )


def _quantization_loss(parity: dict[str, Any]) -> str:
    """Say how near a quantized network comes to the one it was made of."""
    found = parity.get("against_model_as_given")
    if found is None:
        return ""
    shares = [
        f", top-{k} agreement {found[f'top{k}']:.0%}"
        for k in (1, 5)
        if found[f"top{k}"] is not None
    ]
    return f"; against the model as given: cosine {found['cosine']:.6f}{''.join(shares)}"
