"""A report of what a bundle is like, and how it compares with an earlier one.

Compared is what means the same on every machine: errors, bytes, executed instructions, and time as
a ratio to that of onnxruntime in the same run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mbv3c import bundle as bundles
from mbv3c.atomic import new_file
from mbv3c.bundle import Bundle
from mbv3c.errors import EXIT_LARGER, EXIT_PARITY, EXIT_SLOWER, SavedFileError, UsageError
from mbv3c.parity.checks import Check
from mbv3c.parity.compare import Parity
from mbv3c.parity.gate.limits import MetricRow
from mbv3c.targets.ethos_u.verdict import NpuParity

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
        slowdown: of the ratio, the instructions or the cycles, as a fraction.
        growth: of every size in bytes, as a fraction.
        error: of every error, as a fraction of its own tolerance.
    """

    slowdown: float = 0.05
    growth: float = 0.02
    error: float = 0.5


def identity_of(bundle: Bundle) -> dict[str, Any]:
    """Return what must be the same for two reports to be comparable."""
    manifest = bundle.manifest
    return {
        "target": manifest["target"]["name"],
        "cores": manifest["target"].get("cores", 1),
        "precision": manifest["precision"],
        "model_sha256": manifest["files"][bundles.MODEL],
    }


def sizes_of(bundle: Bundle) -> dict[str, int]:
    """Return sizes in bytes: of the files, and of the memory that an inference takes.

    Of an NPU the memory is vela's estimate.
    """
    manifest, files = bundle.manifest, bundle.manifest["files"]
    sizes = {"bundle_bytes": sum((bundle.path / name).stat().st_size for name in files)}
    if "npu" in manifest:
        cost = manifest["npu"]["cost"]
        stream = (bundle.path / bundles.NPU_STREAM).stat().st_size
        estimated = {f"{kind}_bytes": int(cost[f"{kind}_bytes"]) for kind in _NPU_MEMORY}
        return {**sizes, "stream_bytes": stream, **estimated}
    memory = manifest["memory"]
    return {
        **sizes,
        "library_bytes": bundle.library.stat().st_size,
        "weight_bytes": memory["weight_bytes"],
        "arena_bytes": memory["arena_bytes"],
    }


_NPU_MEMORY = ("sram", "dram", "flash")


def errors_of(parity: Parity | NpuParity) -> list[dict[str, Any]]:
    """Return every error that the standing rules limit; null where it is not finite.

    Of outputs they are fractions of the range, of an NPU LSB.
    """
    if isinstance(parity, NpuParity):
        return [
            {"name": f"TOSA against QDQ, input {i}", "error": one.lsb, "allowed": one.allowed_lsb}
            for i, one in enumerate(parity.inputs)
        ]
    return [
        {
            "name": f"{pair.reference.name}, input {index}",
            "error": error if isfinite(error := pair.judged.max_error_of_range) else None,
            "allowed": pair.judged.allowed,
        }
        for index, outputs in enumerate(parity.pairs)
        for pair in outputs
        if pair.judged is not None
    ]


def report_of(
    bundle: Bundle,
    parity: Parity | NpuParity,
    rows: Sequence[MetricRow],
    speed: Mapping[str, Any] | None,
) -> Report:
    """Return the report of a bundle that was verified.

    Args:
        bundle: the bundle.
        parity: its verdict.
        rows: its metrics.
        speed: `kind`, `value` (of which less is better) and what belongs to it; None if that was
            not measured.
    """
    verdict = {key: value for key, value in parity.to_json().items() if key not in _TOO_LONG}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "mbv3c": bundle.manifest["mbv3c"],
        "bundle": bundle.path.resolve().name,
        **identity_of(bundle),
        "parity": verdict,
        "errors": errors_of(parity),
        "metrics": [row.to_json() for row in rows],
        "sizes": sizes_of(bundle),
        "speed": None if speed is None else dict(speed),
    }


_TOO_LONG = ("inputs", "kernels_alone")


def write_report(path: Path, report: Report) -> None:
    """Write a report whole or not at all, over what is there.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    with new_file(path, force=True) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def read_baseline(path: Path, bundle: Bundle) -> Report:
    """Read an earlier report that a bundle is to be compared with.

    Raises:
        UsageError: there is no such file, or it is of another target, precision or model, or of a
            bundle that missed parity.
        SavedFileError: it is damaged, of another version, or no report.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}; `mbv3c verify --report` writes one")
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise SavedFileError(f"{path} is no report of `mbv3c verify --report`")
        if found.get("schema") != SCHEMA:
            raise SavedFileError(
                f"{path} has schema {found.get('schema')}, and this version reads {SCHEMA}; write "
                "it again with this version"
            )
        _check_shape(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SavedFileError(f"{path} is damaged ({error}); write it again") from error
    for name, value in identity_of(bundle).items():
        if found.get(name) != value:
            raise UsageError(
                f"{path} is no baseline for {bundle.path}: its {name} is {found.get(name)}, that "
                f"of the bundle is {value}; write another with --report"
            )
    if not found["parity"]["passed"]:
        raise UsageError(f"{path} is of a bundle that missed parity; that is no baseline")
    return found


def _check_shape(found: Report) -> None:
    """Touch what a comparison reads; raises what Python does where it is not there."""
    bool(found["parity"]["passed"])
    for one in found["errors"]:
        str(one["name"]), float(one["error"]), float(one["allowed"])
    for size in found["sizes"].values():
        int(size)
    if found["speed"] is not None:
        str(found["speed"]["kind"]), float(found["speed"]["value"])


def compare_with(
    baseline: Report, now: Report, allowed: Allowed, seconds: float = 0.0
) -> list[Check]:
    """Compare a report with an earlier one; `seconds` is how long measuring the speed took.

    Raises:
        UsageError: they do not hold the same, so that they cannot be compared.
    """
    return [
        *_errors(baseline, now, allowed.error),
        *_speed(baseline, now, allowed.slowdown, seconds),
        *_sizes(baseline, now, allowed.growth),
    ]


def _errors(baseline: Report, now: Report, share: float) -> Iterator[Check]:
    before = {one["name"]: one for one in baseline["errors"]}
    _same("outputs and inputs", list(before), [one["name"] for one in now["errors"]])
    for one in now["errors"]:
        was, error = before[one["name"]]["error"], one["error"]
        limit = was + share * one["allowed"]
        seen = "not finite" if error is None else f"{error:.2g}"
        yield Check(
            "baseline",
            f"error of {one['name']}",
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
    said = _change(before["value"], after["value"], slowdown)
    if after.get("undisturbed") is False:
        said += "; something else ran beside it"
    yield Check(
        "baseline",
        str(after["kind"]),
        after["value"] <= before["value"] * (1 + slowdown),
        said,
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
    now, was = (f"{one:,}" if isinstance(one, int) else f"{one:.3f}" for one in (after, before))
    return f"{now}, was {was}: {change} (allowed {allowed:+.2%})"


def _same(what: str, before: Any, after: Any) -> None:
    if before != after:
        raise UsageError(
            f"the baseline cannot be compared with: its {what} was {before} and is {after} now; "
            "write another with --report"
        )
