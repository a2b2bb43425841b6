"""How exact a bundle is: its verdict, the outputs, and each kernel by itself."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mbv3c.bundle import damaged_parity
from mbv3c.page import Html, Table, element, how, missing, picture, table, verdict
from mbv3c.parity.gate.blocks import Block, BlockErrors
from mbv3c.parity.gate.gate import judged_again
from mbv3c.parity.gate.limits import MetricRow, measure_all
from mbv3c.parity.gate.page import (
    BLOCKS,
    ERRORS,
    check_table,
    inline_blocks,
    inline_picture,
    metric_tables,
)
from mbv3c.parity.metrics import Metrics
from mbv3c.parity.verdict import Check
from mbv3c.report.subject import Subject, kind_of

_MOST_INPUTS, _MOST_KERNELS = 50, 40


def exactness_section(subject: Subject) -> Iterator[Html]:
    """Yield the verdict on a bundle, and what it is made of.

    Raises:
        BundleError: the verdict in the manifest is not in its documented form.
    """
    yield element("h3", "Parity with onnxruntime")
    parity = subject.parity
    if parity is None:
        yield missing("Not verified. This does it, for --verify:", *_line(subject))
        return
    try:
        yield from _verdict(subject, parity)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_parity(subject.bundle) from error
    if subject.outputs is None:
        yield missing(
            "The errors of single values are not here. This gives them, for --outputs:",
            *("verify", subject.path, "--save-outputs", f"{subject.name}.npz"),
        )
        return
    again = judged_again(subject.outputs)
    pairs = subject.outputs.pairs if again is None else again.pairs
    yield from metric_tables(measure_all(pairs))
    yield picture(inline_picture(pairs, None, f"Errors of {subject.name}"), ERRORS)
    yield how(kind_of(str(parity["ran_on"])), "by the outputs that were saved", *_line(subject))


def _line(subject: Subject) -> list[str]:
    return ["verify", subject.path, "--json"]


def _verdict(subject: Subject, parity: dict[str, Any]) -> Iterator[Html]:
    passed, ran_on = parity["passed"] is True, str(parity["ran_on"])
    yield verdict(f"{'passed' if passed else 'MISSED'} on {ran_on}", passed=passed)
    for line in subject.evidence.sentences(parity):
        yield element("p", line.strip())
    inputs = [row for row in parity["inputs"] if isinstance(row, dict)][:_MOST_INPUTS]
    if inputs and "max_error_of_range" in inputs[0]:
        rows = [_input_row(f"input {index}", row) for index, row in enumerate(inputs)]
        head = ("", "output", "error of range", "allowed", "cosine", "top-1 agreement")
        yield table(Table("The worst output for each input", head, rows, numbers=True, texts=1))
    yield how(
        kind_of(ran_on),
        f"on {ran_on}" + ("" if subject.verified else ", when it was compiled"),
        *_line(subject),
    )
    checks = [
        Check(row["suite"], row["name"], row["passed"] is not False, row["said"])
        for row in parity.get("checks") or ()
    ]
    if checks:
        yield check_table(checks)
    if subject.outputs is None and parity.get("metrics"):
        yield from metric_tables([_metric_row(row) for row in parity["metrics"]])
    if parity.get("blocks"):
        yield from _blocks(subject, parity)
    alone = parity.get("kernels_alone")
    if isinstance(alone, dict) and alone.get("kernels"):
        yield element("h4", "Each kernel by itself")
        yield table(_kernels(alone))


def _metric_row(row: Mapping[str, Any]) -> MetricRow:
    figures = {key: value for key, value in row.items() if key not in ("output", "input")}
    return MetricRow(row["output"], row["input"], msgspec.convert(figures, Metrics))


def _blocks(subject: Subject, parity: Mapping[str, Any]) -> Iterator[Html]:
    named = tuple(Block(str(row["block"]), 0, 0) for row in parity["blocks"])
    errors = tuple(tuple(map(_error, row["errors"])) for row in parity["blocks"])
    found = BlockErrors(str(parity["ran_on"]), named, errors)
    allowed = [row["allowed"] for row in parity["inputs"] if row.get("allowed")]
    drawn = inline_blocks(found, min(allowed, default=None), f"Blocks of {subject.name}")
    yield picture(drawn, BLOCKS)


def _error(value: Any) -> float | None:
    return None if value is None else float(value)


def _input_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    error, top1 = row["max_error_of_range"], row.get("top1_agreement")
    allowed = row.get("allowed")
    return (
        name,
        str(row.get("worst_output", "")),
        "not finite" if error is None else f"{error:.1e}",
        "-" if allowed is None else f"{allowed:.1e}",
        f"{row['cosine']:.6f}" if row.get("cosine") is not None else "-",
        "-" if top1 is None else f"{top1:.0%}",
    )


def _kernels(alone: Mapping[str, Any]) -> Table:
    """Return the kernels that come closest to their limits, what is missed first."""
    ordered = sorted(alone["kernels"], key=lambda row: (row["passed"], -_of_limit(row)))
    rows = [
        (
            str(row["kernel"]),
            ", ".join(map(str, row["nodes"][:2])),
            f"{row['differing']:,} of {row['values']:,}",
            f"{row['max_error_of_range']:.1e}" if row["max_error_of_range"] is not None else "-",
            f"{row['allowed_of_range']:.1e}" if row["allowed_of_range"] is not None else "bits",
            "passed" if row["passed"] else "MISSED",
        )
        for row in ordered[:_MOST_KERNELS]
    ]
    left = len(ordered) - len(rows)
    more = f"; {left} more are further from theirs" if left > 0 else ""
    head = ("kernel", "nodes", "values that differ", "error of range", "allowed", "verdict")
    caption = f"Kernels on the tensors of onnxruntime, the nearest to their limits first{more}"
    return Table(caption, head, rows, numbers=True, texts=1)


def _of_limit(row: Mapping[str, Any]) -> float:
    error, allowed = row["max_error_of_range"] or 0.0, row["allowed_of_range"]
    share = row["differing"] / row["values"] if row["values"] else 0.0
    return float(error / allowed) if allowed else float(share)
