"""The options by which `verify` is a gate: limits, baseline, and the files that it writes."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mbv3c.parity.gate.gate import GateResult
    from mbv3c.parity.gate.request import GateRequest


class Percent(click.ParamType[float]):
    """A share, written as 5%; it must have its sign, as a bare 5 could be anything."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not text.endswith("%") or not 0 <= share < float("inf"):
            self.fail(f"{value!r} is no percentage of 0% or more, such as 5%", param, ctx)
        return share


_FILE = click.Path(path_type=Path, dir_okay=False)
_LIMITS = {
    "max_abs": "Limit: largest absolute error.",
    "mean_abs": "Limit: mean absolute error.",
    "max_rel": "Limit: largest error relative to the reference's value.",
    "mean_rel": "Limit: mean relative error.",
    "max_of_range": "Limit: largest absolute error over the reference's range.",
    "min_cosine": "Limit: least cosine.",
    "min_psnr": "Limit: least PSNR in dB.",
    "min_snr": "Limit: least SNR in dB.",
    "min_top1": "Limit: least share of equal largest classes, from 0 to 1.",
    "min_top5": "Limit: the same of the five largest.",
}
_ALLOWED = {"max_slowdown": "slowdown", "max_growth": "growth", "max_error_growth": "error"}
_FILES = (
    *("save_outputs", "check", "report", "baseline", "latency"),
    *("junit", "plot", "html"),
)
_OF_BUNDLES = ("save_outputs", "report", "baseline", "latency")


def gate_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Add the options; `take_request` reads them."""
    options = [
        click.option("--metrics", is_flag=True, help="Print a table of metrics."),
        click.option(
            "--save-outputs", type=_FILE, help="Write the reference's and the bundle's outputs."
        ),
        click.option(
            "--check", type=_FILE, help="Judge such a file again, without running anything."
        ),
        *(
            click.option(f"--{name.replace('_', '-')}", type=float, help=help_)
            for name, help_ in _LIMITS.items()
        ),
        click.option(
            "--quantile",
            "quantiles",
            multiple=True,
            metavar="PERCENT:ERROR",
            help="Limit: largest absolute error of so many percent of the values; repeatable.",
        ),
        click.option("--report", type=_FILE, help="Write a report for --baseline."),
        click.option("--latency", is_flag=True, help="Measure the speed for the report, too."),
        click.option("--baseline", type=_FILE, help="Compare with an earlier report."),
        click.option(
            "--max-slowdown", type=Percent(), help="Against the baseline.  [default: 5%]"
        ),
        click.option(
            "--max-growth", type=Percent(), help="Of every size in bytes.  [default: 2%]"
        ),
        click.option(
            "--max-error-growth",
            type=Percent(),
            help="Of every error, as a share of its tolerance.  [default: 50%]",
        ),
        click.option("--junit", type=_FILE, help="Write all checks as JUnit XML."),
        click.option("--plot", type=_FILE, help="Write pictures of the errors: .png or .svg."),
        click.option("--html", type=_FILE, help="Write all of it as one HTML page."),
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def take_request(bundle: Path | None, given: dict[str, Any]) -> "GateRequest":
    """Take the options out of what was given, and read them.

    Raises:
        UsageError: they do not go together.
    """
    from mbv3c.errors import UsageError
    from mbv3c.parity.gate.baseline import Allowed
    from mbv3c.parity.gate.limits import limits_of
    from mbv3c.parity.gate.request import GateRequest

    limits = limits_of({name: given.pop(name) for name in _LIMITS}, given.pop("quantiles"))
    allowed = {name: given.pop(name) for name in _ALLOWED}
    files = {name: given.pop(name) for name in _FILES}
    if (files["check"] is None) == (bundle is None):
        raise UsageError("name a bundle, or a file of --save-outputs with --check; one of them")
    refused = [name for name in _OF_BUNDLES if files[name]]
    if bundle is None and refused:
        raise UsageError(f"{_spelled(refused)} takes a bundle, and --check runs none")
    needing = [name for name, value in allowed.items() if value is not None]
    if needing and files["baseline"] is None:
        raise UsageError(f"{_spelled(needing)} belongs to --baseline")
    if files["latency"] and not (files["report"] or files["baseline"]):
        raise UsageError("--latency belongs to --report or --baseline; `mbv3c bench` prints times")
    _check_places(files)
    shares = {
        field: allowed[option] for option, field in _ALLOWED.items() if allowed[option] is not None
    }
    return GateRequest(limits=limits, allowed=Allowed(**shares), **files)


def _check_places(files: dict[str, Any]) -> None:
    """Refuse what could not be written in the end, and two files of one name."""
    from mbv3c.errors import UsageError
    from mbv3c.figures import check_figure

    if files["save_outputs"] and files["save_outputs"].suffix != ".npz":
        raise UsageError(f"--save-outputs {files['save_outputs']} does not end in .npz")
    if files["plot"]:
        check_figure(files["plot"], force=True)
    seen: dict[Path, str] = {}
    for name, path in files.items():
        if isinstance(path, Path):
            if not path.parent.is_dir():
                raise UsageError(f"{_spelled([name])}: the folder {path.parent} does not exist")
            other = seen.setdefault(path.resolve(), name)
            if other != name:
                options = _spelled([other, name])
                raise UsageError(f"{options} name the same file {path}; choose two")


def _spelled(names: "Sequence[str]") -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def outcome_lines(outcome: "GateResult", *, metrics: bool) -> "Iterator[str]":
    """Say what was checked beside the standing rules."""
    if metrics:
        from mbv3c.parity.gate.tables import tables, text_lines

        for table in tables(outcome.rows):
            yield ""
            yield from text_lines(table)
        yield ""
    limits = [one for one in outcome.checks if one.suite == "limits"]
    if limits:
        kept = sum(one.passed for one in limits)
        yield f"limits: {kept} of {len(limits)} kept"
        yield from (f"  MISSED {one.name}: {one.said}" for one in limits if not one.passed)
    compared = [one for one in outcome.checks if one.suite == "baseline"]
    if compared:
        wide = max(len(one.name) for one in compared)
        yield f"baseline: {'passed' if all(one.passed for one in compared) else 'MISSED'}"
        for one in compared:
            yield f"  {'' if one.passed else 'MISSED '}{one.name:<{wide}}  {one.said}"
