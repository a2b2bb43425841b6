"""A report of what a bundle is like, and how it compares with an earlier one.

It compares what has one meaning on every machine: errors, bytes, executed instructions, and time
as a ratio to that of onnxruntime in one run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbv3c import bundle as bundles
from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle
from mbv3c.door.documents import read_json
from mbv3c.errors import EXIT_LARGER, EXIT_PARITY, EXIT_SLOWER, SavedFileError, UsageError
from mbv3c.parity.gate.limits import Limit, MetricRow
from mbv3c.parity.own_inputs import OwnInputs
from mbv3c.parity.verdict import Check, Verdict

FORMAT = "mbv3c report"
SCHEMA = 1

TIME = "ratio to onnxruntime"
INSTRUCTIONS = "executed instructions"
CYCLES = "cycles, estimated by vela"

Report = dict[str, Any]


@dataclass(frozen=True)
class Allowed:
    """How much worse than the baseline is still no miss.

    Attributes:
        slowdown: growth of the ratio, the instructions or the cycles, as a fraction.
        growth: growth of every size in bytes, as a fraction.
        error: growth of every error, as a fraction of that error's tolerance.
    """

    slowdown: float = 0.05
    growth: float = 0.02
    error: float = 0.5


@dataclass(frozen=True)
class Footprint:
    """What a bundle takes, as its backend counts it.

    Attributes:
        cores: the number of cores that one inference may use.
        sizes: bytes by name: files, and memory during an inference.
    """

    cores: int
    sizes: dict[str, int]


def identity_of(bundle: Bundle, cores: int, own: OwnInputs | None) -> dict[str, Any]:
    """Return what must be equal in two reports that are to be compared."""
    return {
        "target": bundle.manifest.target.name,
        "cores": cores,
        "precision": bundle.manifest.precision,
        "model_sha256": bundle.files[bundles.MODEL],
        "own_inputs_sha256": own and own.sha256,
    }


def report_of(
    bundle: Bundle,
    footprint: Footprint,
    verdict: Verdict,
    rows: Sequence[MetricRow],
    speed: Mapping[str, Any] | None,
    own: OwnInputs | None = None,
) -> Report:
    """Return the report of a bundle that was verified.

    Args:
        bundle: the bundle.
        footprint: what the bundle takes.
        verdict: the verdict on it.
        rows: metrics of the bundle.
        speed: `kind`, `value` (of which less is better) and what belongs to it; None if the speed
            was not measured.
        own: the user's own inputs; None for the seeded ones.
    """
    document = {key: value for key, value in verdict.to_json().items() if key not in _TOO_LONG}
    sizes = {"bundle_bytes": sum((bundle.path / name).stat().st_size for name in bundle.files)}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "mbv3c": bundle.manifest.mbv3c,
        "bundle": bundle.path.resolve().name,
        **identity_of(bundle, footprint.cores, own),
        "parity": document,
        "errors": verdict.errors(),
        "metrics": [row.to_json() for row in rows],
        "sizes": sizes | footprint.sizes,
        "speed": None if speed is None else dict(speed),
    }


_TOO_LONG = ("inputs", "kernels_alone", "constants")


def write_report(path: Path, report: Report) -> None:
    """Write a report whole or not at all, over what is there.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    with new_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def read_baseline(path: Path, bundle: Bundle, cores: int, own: OwnInputs | None = None) -> Report:
    """Read an earlier report that a bundle is to be compared with.

    Raises:
        UsageError: there is no such file, or it is of another target, precision or model, of other
            inputs, or of a bundle that missed parity.
        SavedFileError: it is damaged, of another version, or no report.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}; `mbv3c verify --report` writes one")
    try:
        saved = read_json(path)
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise SavedFileError(f"{path} is no report of `mbv3c verify --report`")
        if saved.get("schema") != SCHEMA:
            raise SavedFileError(
                f"{path} has schema {saved.get('schema')}, and this version reads {SCHEMA}; write "
                "it again with this version"
            )
        _check_shape(saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedFileError(f"{path} is damaged ({error}); write it again") from error
    for name, value in identity_of(bundle, cores, own).items():
        if saved.get(name) != value:
            raise UsageError(
                f"{path} is no baseline for {bundle.path}: its {name} is {saved.get(name)}, that "
                f"of the bundle is {value}; write another with --report"
            )
    if not saved["parity"]["passed"]:
        raise UsageError(f"{path} is of a bundle that missed parity; that is no baseline")
    return saved


def _check_shape(report: Report) -> None:
    """Touch what a comparison reads; raises what Python does where it is not there."""
    bool(report["parity"]["passed"])
    for row in report["errors"]:
        str(row["name"]), float(row["error"]), float(row["allowed"])
    for size in report["sizes"].values():
        int(size)
    if report["speed"] is not None:
        str(report["speed"]["kind"]), float(report["speed"]["value"])


def compare_with(
    baseline: Report, now: Report, allowed: Allowed, seconds: float = 0.0
) -> list[Check]:
    """Compare a report with an earlier one; `seconds` is how long measuring the speed took.

    Raises:
        UsageError: they hold different items, so that they cannot be compared.
    """
    return [
        *_errors(baseline, now, allowed.error),
        *_speed(baseline, now, allowed.slowdown, seconds),
        *_sizes(baseline, now, allowed.growth),
    ]


def _errors(baseline: Report, now: Report, share: float) -> Iterator[Check]:
    before = {row["name"]: row for row in baseline["errors"]}
    _same("outputs and inputs", list(before), [row["name"] for row in now["errors"]])
    for row in now["errors"]:
        was, error = before[row["name"]]["error"], row["error"]
        limit = was + share * row["allowed"]
        seen = "not finite" if error is None else f"{error:.2g}"
        yield Check(
            "baseline",
            f"error of {row['name']}",
            error is not None and error <= limit,
            f"{seen}, was {was:.2g} (allowed {limit:.2g})",
            EXIT_PARITY,
        )


def _speed(baseline: Report, now: Report, slowdown: float, seconds: float) -> Iterator[Check]:
    before, after = baseline["speed"], now["speed"]
    if before is None or after is None:
        return
    for name in ("kind", *_BESIDE):
        _same(f"speed's {name}", before.get(name), after.get(name))
    change = _change(before["value"], after["value"], slowdown)
    if after.get("undisturbed") is False:
        change += "; something else ran beside it"
    yield Check(
        "baseline",
        str(after["kind"]),
        after["value"] <= before["value"] * (1 + slowdown),
        change,
        EXIT_SLOWER,
        seconds,
    )


# A ratio says nothing about our side if the other one has changed, or the OpenCL device.
_BESIDE = ("against", "against_version", "threads", "on")


def _sizes(baseline: Report, now: Report, growth: float) -> Iterator[Check]:
    _same("sizes", sorted(baseline["sizes"]), sorted(now["sizes"]))
    for name, size in now["sizes"].items():
        before = baseline["sizes"][name]
        kept = size <= before * (1 + growth)
        yield Check("baseline", name, kept, _change(before, size, growth), EXIT_LARGER)


def _change(before: float, after: float, allowed: float) -> str:
    change = f"{after / before - 1:+.2%}" if before else "was nothing"
    now, was = (f"{x:,}" if isinstance(x, int) else f"{x:.3f}" for x in (after, before))
    return f"{now}, was {was}: {change} (allowed {allowed:+.2%})"


def _same(what: str, before: Any, after: Any) -> None:
    if before != after:
        raise UsageError(
            f"the baseline cannot be compared with: its {what} was {before} and is {after} now; "
            "write another with --report"
        )


@dataclass(frozen=True)
class GateRequest:
    """What the user asked for beside the verdict; paths are None where nothing was said.

    Attributes:
        limits: limits on the metrics.
        save_outputs: where to write the outputs.
        check: a file of such outputs, to be judged instead of a bundle.
        report: where to write a report.
        baseline: an earlier report to compare with.
        allowed: how much worse than that it may be.
        latency: whether to measure the speed.
        junit: where to write the checks.
        plot: where to write pictures of the errors.
        html: where to write a page with all results.
    """

    limits: tuple[Limit, ...] = ()
    save_outputs: Path | None = None
    check: Path | None = None
    report: Path | None = None
    baseline: Path | None = None
    allowed: Allowed = field(default_factory=Allowed)
    latency: bool = False
    junit: Path | None = None
    plot: Path | None = None
    html: Path | None = None
