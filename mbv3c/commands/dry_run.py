"""`--dry-run`: what a command would do, with which tools, and how long it took last time.

Nothing heavy is imported, and no model is read.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.loudness import set_by_file
from mbv3c.commands.options import echo, print_json
from mbv3c.commands.places import boards_named

if TYPE_CHECKING:
    from mbv3c.execution.times import Took, Work
    from mbv3c.targets.wing import Requirement

_HEAD, _WIDE = 12, 68

dry_run_option = click.option(
    "--dry-run",
    "dry",
    is_flag=True,
    help="Only say what would be done, and how long it took last time.",
)

# The packages that prepare a model; a wing names its own tools.
PREPARING = ("onnx", "onnxruntime", "onnxsim")
COMPILING = (*PREPARING, "apache-tvm", "ziglang")


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes:
        work: what it works on.
        steps: what is done, in order.
        packages: the packages that do it, beside the target's tools.
        output: what is written, or what that is; None for nothing.
    """

    work: "Work"
    steps: Sequence[str]
    packages: Sequence[str]
    output: Path | str | None = None

    def tools(self) -> "list[Requirement]":
        """Look for what does it; nothing is imported."""
        from mbv3c.execution.cache import package_version
        from mbv3c.targets import find_target, wing_of
        from mbv3c.targets.wing import Requirement

        versions = {name: package_version(name) for name in self.packages}
        packages = [
            Requirement(name, version is not None, version or "missing", f"pip install {name}")
            for name, version in versions.items()
        ]
        if not self.work.target:
            return packages
        own = wing_of(find_target(self.work.target).family).doctor().diagnose()
        return [*packages, *own]


def show(plan: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    from mbv3c.execution.times import last

    took, tools = last(plan.work), plan.tools()
    if as_json:
        rows = [
            {"name": tool.name, "ok": tool.ok, "detail": tool.detail}
            | {"remedy": None if tool.ok else tool.remedy}
            for tool in tools
        ]
        print_json(
            {
                "dry_run": {
                    "command": plan.work.command,
                    "model": plan.work.model,
                    "target": plan.work.target or None,
                    "precision": plan.work.precision or None,
                    "boards": boards_named(),
                    "steps": list(plan.steps),
                    "tools": rows,
                    "output": None if plan.output is None else str(plan.output),
                    "last": None
                    if took is None
                    else {"seconds": took.seconds, "date": took.date, "model": took.work.model},
                }
            }
        )
        return
    there = [
        tool.name if "/" in tool.detail else f"{tool.name} {tool.detail}"
        for tool in tools
        if tool.ok
    ]
    rows_of: dict[str, list[str]] = {
        "would": [*set_by_file(), *boards_named(), *plan.steps],
        "with": wrap(", ".join(there), _WIDE),
        "missing": [f"{tool.name}: {tool.remedy}" for tool in tools if not tool.ok],
        "writes": [str(plan.output or "nothing")],
        "last time": [_said(took, plan.work)],
    }
    for head, lines in rows_of.items():
        for number, line in enumerate(lines):
            echo(f"{'' if number else head:<{_HEAD}}{line}")
    echo("nothing was done")


def _said(took: "Took | None", work: "Work") -> str:
    if took is None:
        return "not known: not done on this machine, or the cache was cleared"
    other = f" (for {took.work.model})" if took.work.model != work.model else ""
    return f"{took.text}{other}"


def noting(work: "Work") -> AbstractContextManager[None]:
    """Note how long the block takes, if it ends without an error."""
    from mbv3c.execution import times

    return times.noting(work)


def work_of(command: str, model: str, target: str = "", precision: str = "") -> "Work":
    """Return what a command works on."""
    from mbv3c.execution.times import Work

    return Work(command, model, target, precision)


def files_in(folder: Path) -> str:
    """Say how many files a folder has."""
    count = sum(1 for each in folder.rglob("*") if each.is_file())
    return f"the {count} file{'s' * (count != 1)} of {folder}"


def calibrating(folder: Path | None, count: int | None = None) -> str:
    """Say on what a model would be calibrated."""
    if folder is not None:
        return f"quantize, calibrated on {files_in(folder)}"
    return f"quantize, calibrated on {f'{count} ' * bool(count)}random inputs"


def target_named(name: str | None) -> str:
    """Return the whole name of a target or board; empty for none."""
    from mbv3c.targets import find_target

    return "" if name is None else find_target(name).name


def precision_named(target: str, name: str | None) -> str:
    """Return a precision, or a target's own."""
    from mbv3c.targets import wing_of

    if name is not None or not target:
        return name or ""
    return str(wing_of(target.partition(":")[0]).precisions[0])


_NAMING = ("network", "architecture", "variant", "width", "resolution", "head", "classes")


def subject(model: Path | None, given: dict[str, Any]) -> str:
    """Name a model by its place, or the network that would be built by its options."""
    if model is not None:
        return str(model.absolute())
    words = [f"{name} {given[name]}" for name in _NAMING if given.get(name) is not None]
    return f"built: {', '.join(words) or 'MobileNetV3-Large'}"


def got(model: Path | None, work: "Work") -> str:
    """Say how a model is come by."""
    return f"read {model}" if model is not None else work.model.replace("built:", "build")
