"""Limits that a user sets on the figures of `mbv3c.parity.metrics`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.parity.checks import Check
from mbv3c.parity.compare import Pairs
from mbv3c.parity.metrics import Metrics, errors, measure, quantile


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
        name: as on the command line, such as `--max-abs` or `--quantile 99`.
        value: the limit.
        bound: what it limits.
        percent: of a quantile of the absolute errors.
    """

    name: str
    value: float
    bound: Bound
    percent: float | None = None


def limits_of(given: Mapping[str, float | None], quantiles: Sequence[str]) -> tuple[Limit, ...]:
    """Read the limits from options: by the keys of `BOUNDS`, and quantiles as PERCENT:ERROR.

    Raises:
        UsageError: a quantile is none, or a limit is no number.
    """
    found = [
        Limit(f"--{name.replace('_', '-')}", value, BOUNDS[name])
        for name, value in given.items()
        if value is not None
    ]
    for limit in found:
        if isnan(limit.value):
            raise UsageError(f"{limit.name} nan limits nothing; give a number")
    return (*found, *map(_quantile, quantiles))


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
        output: its name.
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
    said = "nothing to compare" if seen is None else f"{seen:.6g}"
    if not complete:
        broken = row.metrics.values - row.metrics.compared
        said += f", and {broken} of {row.metrics.values} values are not finite or of another shape"
    return Check(
        suite="limits",
        name=f"{limit.name} of {row.output}, input {row.input}",
        passed=kept,
        said=f"{said} (at {'least' if least else 'most'} {limit.value:g})",
    )
