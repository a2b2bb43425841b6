"""Metrics as a table to read: one per output, a column per input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mbv3c.parity.gate.limits import MetricRow
from mbv3c.parity.metrics import Index, Metrics, NotFinite

_INDENT = "  "


@dataclass(frozen=True)
class Table:
    """The metrics of one output.

    Attributes:
        output: its name.
        inputs: the places of the inputs, one per column.
        lines: what each line is called, and its cells; one that belongs to the line above is
            indented by two spaces.
    """

    output: str
    inputs: tuple[int, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def tables(rows: Sequence[MetricRow]) -> list[Table]:
    """Arrange metrics in tables, in the order in which the outputs first appear."""
    order = list(dict.fromkeys(row.output for row in rows))
    ordered = sorted(rows, key=lambda row: order.index(row.output))
    found = []
    for output, group in groupby(ordered, key=lambda row: row.output):
        shown = list(group)
        columns = [list(_lines(row.metrics)) for row in shown]
        lines = tuple(
            (cells[0][0], tuple(cell for _, cell in cells)) for cells in zip(*columns, strict=True)
        )
        found.append(Table(output, tuple(row.input for row in shown), lines))
    return found


def text_lines(table: Table) -> Iterator[str]:
    """Say a table in lines of text."""
    first = max(len(name) for name, _ in table.lines) + 1
    heads = [f"input {index}" for index in table.inputs]
    cells = [heads, *(line for _, line in table.lines)]
    wide = max(len(cell) for line in cells for cell in line) + 2
    yield f"{table.output:<{first}}" + "".join(f"{head:>{wide}}" for head in heads)
    for name, line in table.lines:
        yield f"{name:<{first}}" + "".join(f"{cell:>{wide}}" for cell in line)


def _lines(metrics: Metrics) -> Iterator[tuple[str, str]]:
    yield "max absolute error", _number(metrics.max_abs)
    yield f"{_INDENT}at", _place(metrics.max_abs_at)
    yield "mean absolute error", _number(metrics.mean_abs)
    for percent, value in metrics.quantiles.items():
        yield f"{_INDENT}{percent} % below", _number(value)
    yield "max relative error", _number(metrics.max_rel)
    yield f"{_INDENT}at", _place(metrics.max_rel_at)
    yield "mean relative error", _number(metrics.mean_rel)
    yield "max error of range", _number(metrics.max_of_range)
    yield "cosine", _number(metrics.cosine, ".9f")
    yield "PSNR, dB", _number(metrics.psnr_db, ".1f")
    yield "SNR, dB", _number(metrics.snr_db, ".1f")
    yield "top-1 agreement", _number(metrics.top1, ".1%")
    yield "top-5 agreement", _number(metrics.top5, ".1%")
    yield "not finite, ours", _broken(metrics.ours)
    yield "not finite, reference", _broken(metrics.reference)


def _number(value: float | None, form: str = ".2e") -> str:
    return "-" if value is None else format(value, form)


def _place(index: Index | None) -> str:
    return "-" if index is None else f"[{','.join(map(str, index))}]"


def _broken(side: NotFinite) -> str:
    found = [
        f"{count} {name} from {_place(at)}"
        for name, count, at in (("NaN", side.nan, side.nan_at), ("inf", side.inf, side.inf_at))
        if count
    ]
    return ", ".join(found) or "0"
