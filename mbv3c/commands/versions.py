"""`mbv3c --version`, with `--json` of all that mbv3c stands on."""

import platform
import re
import sys
from typing import Any

import click

from mbv3c.commands.options import all_of, print_json
from mbv3c.errors import UsageError
from mbv3c.version import __version__


def _print_version(context: click.Context, option: click.Parameter, value: Any) -> None:
    if not value or context.resilient_parsing:
        return
    if "--json" in sys.argv:
        print_json(versions())
    else:
        click.echo(f"mbv3c, version {__version__}")
    context.exit()


def _only_of_version(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value and not context.resilient_parsing:
        raise UsageError("--json stands behind a command, or beside --version")


version_options = all_of(
    click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Show the version; with --json also those of all tools.",
    ),
    click.option(
        "--json", is_flag=True, expose_value=False, hidden=True, callback=_only_of_version
    ),
)


def versions() -> dict[str, Any]:
    """Return the versions of mbv3c, of Python and of every package that it may use, and tools."""
    from importlib import metadata

    from mbv3c.doctor import diagnose
    from mbv3c.execution.cache import package_version

    required = metadata.requires("mbv3c") or ()
    names = dict.fromkeys(re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required)
    return {
        "mbv3c": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: package_version(name) for name in names},
        "tools": [
            {"name": part.name, "ok": part.ok, "detail": part.detail} for part in diagnose()
        ],
    }
