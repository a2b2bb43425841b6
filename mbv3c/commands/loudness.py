"""How much a command says: the options that all commands take, and what a project file sets."""

import os
from typing import Any

import click
from click.core import ParameterSource

_QUIET, _VERBOSE, TITLE = "mbv3c.quiet", "mbv3c.verbose", "mbv3c.project"  # in a context's `meta`


def _noted(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value:
        context.meta[f"mbv3c.{option.name}"] = True


def _without_color(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value:
        os.environ["NO_COLOR"] = "1"  # which rich asks, too
        context.color = False


def add_to(command: click.Command) -> None:
    """Give a command, and all below it, the options that say how much is printed."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_to(inner)
        return
    command.params += [
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            expose_value=False,
            callback=_noted,
            help="Print results, warnings and errors only.",
        ),
        click.Option(
            ["--verbose", "-v"],
            is_flag=True,
            expose_value=False,
            callback=_noted,
            help="Also print what steps take, and what is behind an error.",
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            expose_value=False,
            callback=_without_color,
            help="Print no colors; NO_COLOR in the environment does so, too.",
        ),
    ]


def is_quiet() -> bool:
    """Say whether the command that runs prints results, warnings and errors only."""
    return _meta(_QUIET) is not None


def is_verbose() -> bool:
    """Say whether the command that runs prints more than usual."""
    return _meta(_VERBOSE) is not None


def set_by_file() -> list[str]:
    """Say which options of the command that runs are those of a project file."""
    context, title = click.get_current_context(silent=True), _meta(TITLE)
    if context is None or title is None:
        return []
    flags = [
        option.opts[-1] if value is True else f"{option.opts[-1]} {_shown(value)}"
        for option in context.command.params
        if (value := context.params.get(option.name or "")) is not None
        and context.get_parameter_source(option.name or "") is ParameterSource.DEFAULT_MAP
    ]
    return [f"{title} sets {', '.join(flags)}"] if flags else []


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _meta(key: str) -> Any:
    context = click.get_current_context(silent=True)
    return context.meta.get(key) if context is not None else None
