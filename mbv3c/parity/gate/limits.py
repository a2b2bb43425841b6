"""The figures of `mbv3c.parity.metrics` as tables, and limits that a user sets on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.parity.metrics import Index, Metrics, NotFinite, errors, measure, quantile
from mbv3c.parity.verdict import Check, Pairs


@dataclass(frozen=True)
class Bound:
    """What can be limited.

    Attributes:
        figure: the attribute of `Metrics`; empty of the quantiles.
        least: whether the limit is the least allowed value, and not the largest.
    """

    figure: str
    least: bool = False


BOUNDS: dict[str, Bound] = {
    "max_abs": Bound("max_abs"),
    "mean_abs": Bound("mean_abs"),
    "max_rel": Bound("max_rel"),
    "mean_rel": Bound("mean_rel"),
    "max_of_range": Bound("max_of_range"),
    "min_cosine": Bound("cosine", least=True),
    "min_psnr": Bound("psnr_db", least=True),
    "min_snr": Bound("snr_db", least=True),
    "min_top1": Bound("top1", least=True),
    "min_top5": Bound("top5", least=True),
}


@dataclass(frozen=True)
class Limit:
    """One limit, on every output for every input.

    Attributes:
        name: name as on the command line, such as `--max-abs` or `--quantile 99`.
        value: the limit.
        bound: what it limits.
        percent: percent of a quantile of the absolute errors; None for other limits.
    """

    name: str
    value: float
    bound: Bound
    percent: float | None = None


def limits_of(given: Mapping[str, float | None], quantiles: Sequence[str]) -> tuple[Limit, ...]:
    """Read the limits from options: by the keys of `BOUNDS`, and quantiles as PERCENT:ERROR.

    Raises:
        UsageError: a quantile is none, or a limit is no number or can never be kept.
    """
    limits = [
        Limit(f"--{name.replace('_', '-')}", value, BOUNDS[name])
        for name, value in given.items()
        if value is not None
    ]
    for limit in limits:
        if isnan(limit.value):
            raise UsageError(f"{limit.name} nan limits nothing; give a number")
        if limit.value < 0 and not limit.bound.least:
            raise UsageError(f"{limit.name} {limit.value:g}: no error is below 0; give 0 or more")
    return (*limits, *map(_quantile, quantiles))


def _quantile(text: str) -> Limit:
    percent, _, value = text.partition(":")
    try:
        limit = Limit(f"--quantile {percent}", float(value), Bound(""), float(percent))
    except ValueError:
        limit = None
    if limit is None or not 0 <= (limit.percent or 0.0) <= 100 or isnan(limit.value):
        raise UsageError(
            f"--quantile {text!r} is no PERCENT:ERROR, such as 99:1e-4: at most 1 % of the "
            "absolute errors may be larger than 1e-4"
        )
    return limit


@dataclass(frozen=True)
class MetricRow:
    """The figures of one output for one input.

    Attributes:
        output: name of the output.
        input: the input's place among those that parity is checked on.
        metrics: the figures.
    """

    output: str
    input: int
    metrics: Metrics

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {"output": self.output, "input": self.input, **self.metrics.to_json()}


def measure_all(pairs: Pairs) -> list[MetricRow]:
    """Compute the figures of every output for every input."""
    return [
        MetricRow(
            pair.reference.name,
            index,
            measure(pair.ours, pair.reference.output, pair.reference.class_axis),
        )
        for index, outputs in enumerate(pairs)
        for pair in outputs
    ]


def judge(limits: Sequence[Limit], pairs: Pairs, rows: Sequence[MetricRow]) -> list[Check]:
    """Hold every output for every input to the limits.

    An output of another shape than the reference's, or that is not finite where it is, or the
    other way round, keeps no limit. A limit on class scores does not concern other outputs.

    Raises:
        UsageError: a limit is on class scores, and no output has any.
    """
    flat = [pair for outputs in pairs for pair in outputs]
    checks = []
    for limit in limits:
        concerned = [
            (pair, row)
            for pair, row in zip(flat, rows, strict=True)
            if limit.bound.figure not in ("top1", "top5") or pair.reference.class_axis is not None
        ]
        if not concerned:
            raise UsageError(f"{limit.name} is on class scores, and no output holds any")
        for pair, row in concerned:
            if limit.percent is None:
                seen = getattr(row.metrics, limit.bound.figure)
            else:
                seen = quantile(errors(pair.ours, pair.reference.output), limit.percent)
            checks.append(_check(limit, row, seen))
    return checks


def _check(limit: Limit, row: MetricRow, seen: float | None) -> Check:
    complete, least = row.metrics.complete, limit.bound.least
    # What is empty on both sides has no figure, and is equal.
    value = (inf if least else 0.0) if seen is None else seen
    kept = complete and (value >= limit.value if least else value <= limit.value)
    text = "nothing to compare" if seen is None else f"{seen:.6g}"
    if not complete:
        broken = row.metrics.values - row.metrics.compared
        text += f", and {broken} of {row.metrics.values} values are not finite or of another shape"
    return Check(
        suite="limits",
        name=f"{limit.name} of {row.output}, input {row.input}",
        passed=kept,
        finding=f"{text} (at {'least' if least else 'most'} {limit.value:g})",
    )


_INDENT = "  "


@dataclass(frozen=True)
class Table:
    """The metrics of one output.

    Attributes:
        output: name of the output.
        inputs: the places of the inputs, one per column.
        lines: what each line is called, and its cells; one that belongs to the line above is
            indented by two spaces.
    """

    output: str
    inputs: tuple[int, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def tables(rows: Sequence[MetricRow]) -> list[Table]:
    """Arrange metrics in tables, in the order in which the outputs first appear."""
    grouped: dict[str, list[MetricRow]] = {}
    for row in rows:
        grouped.setdefault(row.output, []).append(row)
    per_output = []
    for output, shown in grouped.items():
        columns = [list(_lines(row.metrics)) for row in shown]
        lines = tuple(
            (cells[0][0], tuple(cell for _, cell in cells)) for cells in zip(*columns, strict=True)
        )
        per_output.append(Table(output, tuple(row.input for row in shown), lines))
    return per_output


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
    counts = [
        f"{count} {name} from {_place(at)}"
        for name, count, at in (("NaN", side.nan, side.nan_at), ("inf", side.inf, side.inf_at))
        if count
    ]
    return ", ".join(counts) or "0"
