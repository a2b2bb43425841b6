"""The command `mbv3c verify`, and how a verdict reads."""

from pathlib import Path
from typing import Any

import click

from mbv3c.cli_common import Progress, json_option, print_json
from mbv3c.cli_device import device_options, place_of
from mbv3c.cli_images import asked_for, image_options, verify_images
from mbv3c.errors import EXIT_PARITY


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@image_options
@device_options
@json_option
def verify(bundle: Path, images: dict[str, Any], as_json: bool, **device: Any) -> None:
    """Check that a bundle computes what onnxruntime computes on the model as it was given."""
    from mbv3c.bundle import is_npu_bundle

    place = place_of(**device)
    if asked_for(images):
        verify_images(bundle, images, as_json, place)
        return
    if is_npu_bundle(bundle) and place is None:
        _verify_npu(bundle, as_json)
        return
    from mbv3c import pipeline

    parity = pipeline.verify_bundle(bundle, Progress(), place).to_json()
    if as_json:
        print_json(parity)
    else:
        click.echo(f"parity: {sentence(parity)}")
    if not parity["passed"]:
        raise click.exceptions.Exit(EXIT_PARITY)


def _verify_npu(bundle: Path, as_json: bool) -> None:
    from mbv3c.targets.npu_tools import require_npu_tools

    require_npu_tools()
    from mbv3c.npu_pipeline import verify_npu
    from mbv3c.npu_report import sentences

    parity = verify_npu(bundle).to_json()
    if as_json:
        print_json(parity)
    else:
        click.echo("\n".join(sentences(parity)))
    if not parity["passed"]:
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
