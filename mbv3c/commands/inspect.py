"""The command `mbv3c inspect`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from mbv3c.commands.wrapping import columns_of, shortened
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.graphs.count import NodeCost


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
    echo(f"{model}: {architecture.sentence}\n")
    for line in layer_lines(inspected.layers, columns_of(sys.stdout)):
        echo(line)
    echo(f"total: {totals.params:,} parameters, {totals.madds:,} multiply-adds\n")
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


_LEAST_NAME = 16  # letters of a layer's name, however narrow the terminal is


def layer_lines(layers: "Sequence[NodeCost]", columns: int | None) -> list[str]:
    """Return a table of layers: exact, or in so many columns with rounded figures and cut names.

    Args:
        layers: what each layer is and costs.
        columns: columns of the terminal; None for a file or a pipe, which gets exact figures.
    """
    from mbv3c.search.front import aligned

    def table(head: Sequence[str], shown: Callable[[int], str], longest: int) -> list[str]:
        rows = [("layer", "operator", "output", *head)]
        for layer in layers:
            shape = "x".join(map(str, layer.output_shape))
            counts = (layer.params, layer.madds, layer.activation_bytes)
            name = shortened(layer.name, longest)
            rows.append((name, layer.operator, shape, *map(shown, counts)))
        return list(aligned(rows, text=3))

    longest = max(len(layer.name) for layer in layers)
    exact = table(("parameters", "multiply-adds", "bytes"), "{:,}".format, longest)
    if columns is None or len(exact[0]) <= columns:
        return exact
    head = ("params", "MACs", "bytes")
    beyond = len(table(head, _rounded, longest)[0]) - columns
    return table(head, _rounded, max(_LEAST_NAME, longest - max(0, beyond)))


def _rounded(count: int) -> str:
    """Return a count in three digits: 802,816 as 803k."""
    if count < 1000:
        return str(count)
    value, unit = next(
        (count / size, unit)
        for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
        if count >= 0.9995 * size
    )
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"


def _check_options(cost: str | None, given: Mapping[str, object]) -> None:
    """Make sure that nothing is asked of costs that are not asked for.

    Raises:
        UsageError: an option makes no sense without --cost.
    """
    extra = [name for name, value in given.items() if value is not None]
    if cost is None and extra:
        raise UsageError(f"{' and '.join(extra)} is for --cost TARGET: give that, too")
