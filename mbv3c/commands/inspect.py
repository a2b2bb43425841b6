"""The command `mbv3c inspect`."""

from pathlib import Path

import click

from mbv3c.commands.options import batch_option, load_given, opset_option
from mbv3c.commands.output import json_option, print_json
from mbv3c.commands.verify import sentence
from mbv3c.errors import UsageError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@batch_option
@opset_option
@json_option
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
        print_json(
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
    from mbv3c.commands.kernel_table import kernel_lines, memory_lines

    manifest = read_bundle(path).manifest
    if "npu" in manifest:
        from mbv3c.targets.ethos_u import report as npu_report

        if as_json:
            print_json(npu_report.inspected_json(manifest))
            return
        click.echo("\n".join(npu_report.inspected_lines(path, manifest)))
        return
    if as_json:
        keys = ("model", "target", "precision", "input", "outputs", "kernels", "memory", "parity")
        print_json({key: manifest[key] for key in keys})
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
