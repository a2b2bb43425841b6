"""How a ladder reads: the table of its stages, and the culprit."""

from collections.abc import Iterator
from math import isfinite, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbv3c.parity.ladder.ladder import Ladder, StageRow


_SHOWN = 6  # of kernels and layers


def ladder_lines(ladder: "Ladder", written: str | None) -> Iterator[str]:
    """Yield the table, what was skipped and why, and the culprit with where it was written."""
    wide = max(len(row.stage) for row in ladder.rows) + 2
    yield (
        f"{'stage':<{wide}}{'from given':>11}{'from before':>12}{'allowed':>9}{'cosine':>13}"
        f"{'top-1':>7}  {'verdict':<11}ran on"
    )
    for row in ladder.rows:
        yield f"{row.stage:<{wide}}{_figures(row)}  {row.verdict:<11}{row.ran_on}"
    for row in ladder.rows:
        if row.finding:
            yield f"{row.stage}: {row.finding}"
    for stage in ladder.skipped:
        yield f"skipped {stage.stage}: {stage.reason}"
    passed = "every stage passed" if ladder.passed else "FAILED"
    yield (
        f"{passed}, over {len(ladder.inputs)} inputs, in {ladder.seconds:.1f} s; of them "
        f"{ladder.plain_seconds:.1f} s for what a plain verify runs"
    )
    yield from _culprit(ladder, written)


def _figures(row: "StageRow") -> str:
    top1 = "" if row.top1_agreement is None else f"{row.top1_agreement:.0%}"
    return (
        f"{_error(row.max_error_of_range):>11}{_error(row.from_before):>12}"
        f"{'' if isnan(row.allowed) else f'{row.allowed:.1e}':>9}{row.cosine:>13.9f}{top1:>7}"
    )


def _error(error: float) -> str:
    return f"{error:.1e}" if isfinite(error) else "not finite"


def _culprit(ladder: "Ladder", written: str | None) -> Iterator[str]:
    if ladder.silent:
        yield f"no culprit: {ladder.silent}"
    culprit = ladder.culprit
    if culprit is None:
        return
    shown = culprit.shown
    yield f"culprit: {culprit.stage.name}, at {_listed(culprit.layers)}"
    yield (
        f"  {len(shown.part.nodes)} nodes from {shown.part.entry} to {shown.part.exit}: max error "
        f"{_error(shown.max_error_of_range)} of range (allowed {shown.allowed:.1e}); "
        f"{culprit.tried} parts compared"
    )
    if shown.kernels:
        yield f"  kernels: {_listed(shown.kernels)}"
    yield f"  {written}/reproduce.py shows it with public packages alone"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
