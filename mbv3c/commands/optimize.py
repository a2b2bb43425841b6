"""The command `mbv3c optimize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import (
    PATH,
    batch_option,
    echo,
    force_option,
    json_option,
    load_given,
    print_json,
)
from mbv3c.commands.places import MODEL
from mbv3c.errors import EXIT_PARITY

if TYPE_CHECKING:
    from mbv3c.parity.rewriting import OptimizedStep


@click.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=PATH, required=True, help="Write this .onnx file.")
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
@json_option
def optimize(
    model: Path,
    output: Path,
    opset: int | None,
    explain: bool,
    prove: bool,
    force: bool,
    as_json: bool,
    **shape: Any,
) -> None:
    """Rewrite an ONNX graph and say what each pass did and why it refused."""
    from mbv3c.atomic import check_place, new_file

    check_place(output, force=force)
    loaded = load_given(model, **shape)
    from mbv3c.parity.rewriting import optimize as optimized_model

    with new_file(output, force=force) as temporary:
        optimized, steps = optimized_model(loaded, proving=prove, opset=opset)
        temporary.write_bytes(optimized.SerializeToString(deterministic=True))
    failed = [
        {"pass": step.report.name, "node": proof.node, "reason": proof.verdict.reason}
        for step in steps
        for proof in step.failed
    ]
    if as_json:
        passes = [step.to_json() for step in steps]
        proof_failed = failed if prove else None
        print_json({"model": str(output), "passes": passes, "proof_failed": proof_failed})
    else:
        _print_steps(steps, explain, prove)
        if failed:
            first = failed[0]
            echo(
                f"PROOF FAILED for {len(failed)} rewrites, first {first['pass']} at "
                f"{first['node']}; none of them was made: {output} computes what {model} does"
            )
    if failed:
        raise click.exceptions.Exit(EXIT_PARITY)


def _print_steps(steps: "list[OptimizedStep]", explain: bool, prove: bool) -> None:
    """Print the table of `optimize`, then what was rewritten and refused where."""
    proved = f"{'proved':>10}{'worst proof':>13}" if prove else ""
    echo(f"{'pass':<18}{'matched':>8}{'refused':>8}{'nodes':>14}{proved}  largest error of range")
    busy = [step for step in steps if step.report.changed or step.report.refused]
    for step in busy:
        report = step.report
        nodes = f"{report.nodes_before} → {report.nodes_after}"
        echo(
            f"{report.name:<18}{len(report.matched):>8}{len(report.refused):>8}{nodes:>14}"
            f"{_proved(step) if prove else ''}  {step.max_error_of_range:.1e}"
        )
    if len(busy) < len(steps):
        echo(f"{len(steps) - len(busy)} other passes found nothing to do")
    for step in steps:
        for name in step.report.matched if explain else ():
            echo(f"{step.report.name} rewrote {name}")
        for refusal in step.report.refused:
            echo(f"{step.report.name} refused {refusal.node}: {refusal.reason}")
    verdicts = [proof.verdict for step in steps for proof in step.report.proofs]
    sound = [verdict for verdict in verdicts if verdict.passed]
    if prove and not verdicts:
        echo("nothing to prove: no rewrite fits")
    if sound:
        worst = max(sound, key=lambda verdict: verdict.max_error_of_range)
        echo(
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
