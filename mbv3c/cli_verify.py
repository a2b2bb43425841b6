"""The command `mbv3c verify`, and how a verdict reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.cli_common import Progress, json_option, print_json
from mbv3c.cli_device import device_options, place_of
from mbv3c.cli_gate import gate_options, outcome_lines, take_request
from mbv3c.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from mbv3c.execution.device.place import Place
    from mbv3c.gate import Outcome, Request


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@gate_options
@device_options
@json_option
def verify(bundle: Path | None, metrics: bool, as_json: bool, **given: Any) -> None:
    """Check that a bundle computes what onnxruntime computes on the model as it was given."""
    request = take_request(bundle, given)
    place = place_of(**given)
    if bundle is not None:
        outcome = _verified(bundle, request, place)
    elif place is not None:
        raise UsageError("--device and --tracker take a bundle, and --check runs none")
    else:
        from mbv3c.gate import check_again

        assert request.check is not None
        outcome = check_again(request.check, request)
    if as_json:
        print_json(outcome.to_json())
    else:
        click.echo("\n".join([*_verdict(outcome), *outcome_lines(outcome, metrics=metrics)]))
    if outcome.exit_code != EXIT_DONE:
        raise click.exceptions.Exit(outcome.exit_code)


def _verified(bundle: Path, request: "Request", place: "tuple[Place, float] | None") -> "Outcome":
    from mbv3c.bundle import is_npu_bundle
    from mbv3c.gate import Verdict, verify_and_judge

    progress, is_npu = Progress(), is_npu_bundle(bundle) and place is None
    if is_npu:
        from mbv3c.targets.npu_tools import require_npu_tools

        require_npu_tools()

    def run() -> "Verdict":
        if is_npu:
            from mbv3c.npu_pipeline import verify_npu

            return verify_npu(bundle)
        from mbv3c import pipeline

        return pipeline.verify_bundle(bundle, progress, place)

    return verify_and_judge(bundle, request, run, progress, here=place is None)


def _verdict(outcome: "Outcome") -> list[str]:
    """Say the verdict by the standing rules; of saved outputs perhaps that of limits instead."""
    document = outcome.document
    if "operators_alone" in document:
        from mbv3c.npu_report import sentences

        return sentences(document)
    origin = f"outputs of {document['saved']['bundle']}, " if "saved" in document else ""
    if "max_error_of_range" not in document:
        passed = "MISSED" if outcome.exit_code else "passed"
        return [f"{origin}by the limits given: {passed} on {document['ran_on']}"]
    return [f"{origin}parity: {sentence(document)}"]


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
