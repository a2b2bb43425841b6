"""What the modules of the command line share: progress, and JSON on stdout."""

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Progress:
    """Prints each step to stderr when it starts, with the time since the command began."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, step: str) -> None:
        click.echo(f"[{time.monotonic() - self._start:5.1f} s] {step}", err=True)


def print_json(document: dict[str, Any]) -> None:
    """Print the one document of a command with --json."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
    )(command)
