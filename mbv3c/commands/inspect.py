"""The command `mbv3c inspect`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mbv3c.commands.options import (
    PATH,
    Progress,
    batch_option,
    device_options,
    echo,
    json_option,
    load_given,
    opset_option,
    place_of,
    print_description,
    print_json,
)
from mbv3c.commands.places import MODEL_OR_BUNDLE
from mbv3c.errors import UsageError


@click.command()
@click.argument("model", type=MODEL_OR_BUNDLE)
@click.option("--input-shape", help="Fix the input's shape, such as 1,3,224,224.")
@batch_option
@opset_option
@click.option("--cost", metavar="TARGET", help="Say what it costs there, by layer and block.")
@click.option(
    "--precision", help="Ask for costs in this precision.  [default: the target's first]"
)
@click.option(
    "--costs", type=PATH, help="Keep costs in this folder.  [default: in the user's cache]"
)
@device_options
@json_option
def inspect(
    model: Path,
    as_json: bool,
    cost: str | None,
    precision: str | None,
    costs: Path | None,
    **given: Any,
) -> None:
    """Say what a model is, what each layer costs, and what `optimize` would do to it.

    For a bundle, list its kernels, its weights and where its activations lie.
    """
    place = place_of(given)
    options = {"--precision": precision, "--costs": costs, "--device or --tracker": place}
    _check_options(cost, options)
    if model.is_dir():
        if cost is not None or any(value is not None for value in given.values()):
            raise UsageError(
                "--input-shape, --batch, --opset and --cost belong to a model, not to a bundle"
            )
        from mbv3c.targets import backend_for, open_bundle

        bundle = open_bundle(model)
        backend = backend_for(bundle)
        print_description(backend.describe_bundle(bundle), as_json=as_json)
        return
    from dataclasses import asdict

    from mbv3c.graphs import count
    from mbv3c.graphs.recognition import recognize
    from mbv3c.passes import run_pipeline
    from mbv3c.passes.simplify import simplify
    from mbv3c.search.cost_report import cost_report

    loaded = load_given(model, **given)
    inspected = count.inspect(loaded, simplify(loaded)[0])
    optimized, reports = run_pipeline(loaded)
    architecture = recognize(optimized)
    costly = None
    if cost is not None:
        costly = cost_report(loaded, cost, precision, costs, Progress(), place)
    if as_json:
        print_json(
            {
                **({"cost": costly.to_json()} if costly else {}),
                "architecture": architecture.to_json(),
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
    if costly is not None:
        echo(f"{model}: {architecture.sentence}\n")
        for line in costly.lines():
            echo(line)
        return
    totals = inspected.totals
    wide = max(len(layer.name) for layer in inspected.layers) + 2
    echo(f"{model}: {architecture.sentence}\n")
    echo(
        f"{'layer':<{wide}}{'operator':<20}{'output':<18}{'parameters':>12}{'multiply-adds':>15}"
        f"{'activation bytes':>18}"
    )
    for layer in inspected.layers:
        shape = "x".join(map(str, layer.output_shape))
        echo(
            f"{layer.name:<{wide}}{layer.operator:<20}{shape:<18}{layer.params:>12,}"
            f"{layer.madds:>15,}{layer.activation_bytes:>18,}"
        )
    echo(f"{'total':<{wide + 38}}{totals.params:>12,}{totals.madds:>15,}\n")
    echo(
        f"peak activation memory: {inspected.peak_activation_bytes:,} bytes, computed and not "
        "measured: the largest sum of tensors\nalive at once when the nodes run in this order, "
        "each from the node that makes it to its last use,\ninput and output included, weights "
        "excluded, nothing in place\n"
    )
    echo(f"{'optimize would run':<20}{'matched':>8}{'refused':>8}{'nodes':>14}")
    for report in reports:
        nodes = f"{report.nodes_before} → {report.nodes_after}"
        echo(f"{report.name:<20}{len(report.matched):>8}{len(report.refused):>8}{nodes:>14}")
    for report in reports:
        for refusal in report.refused:
            echo(f"{report.name} would refuse {refusal.node}: {refusal.reason}")


def _check_options(cost: str | None, given: Mapping[str, object]) -> None:
    """Make sure that nothing is asked of costs that are not asked for.

    Raises:
        UsageError: an option makes no sense without --cost.
    """
    extra = [name for name, value in given.items() if value is not None]
    if cost is None and extra:
        raise UsageError(f"{' and '.join(extra)} is for --cost TARGET: give that, too")
