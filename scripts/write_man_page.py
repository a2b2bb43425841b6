"""Write the man page from the command line's own help: `python scripts/write_man_page.py`.

It goes to docs/mbv3c.1, which the wheel installs into share/man/man1. A test compares the two.
Sections and macros are those of man-pages(7) and groff_man(7).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from mbv3c.cli import commands
from mbv3c.version import __version__

PAGE = Path(__file__).parents[1] / "docs" / "mbv3c.1"

_EXITS = {
    "0": "done",
    "1": "failed",
    "2": "wrong usage, or a bundle that may not run here",
    "3": "the bundle does not compute what the model computes",
    "4": "slower than a baseline allows",
    "5": "larger than a baseline allows",
    "70": "a library crashed; the message says where the report is",
    "130": "interrupted",
}
_ENVIRONMENT = {
    "MBV3C_CACHE": "folder of fetched tools; ~/.cache/mbv3c without it",
    "MBV3C_STATE": "folder that notes which bundles were compiled here; ~/.local/state/mbv3c",
    "MBV3C_PROFILE": "profile of the project's file to take",
    "MBV3C_MEMORY": "memory that a command may take, such as 6G, or none",
    "MBV3C_STEP_SECONDS": "processor time that a step which may loop may take, or none",
    "NO_COLOR": "print no colors",
}
# Characters that groff makes others of: a hyphen, and quotes and accents of print.
_PRINTED = {
    "\\": "\\e",
    "-": "\\-",
    '"': "\\(dq",
    "'": "\\(aq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
}
_FILES = {"mbv3c.toml": "options of commands for a project, read from the current folder"}


def page() -> str:
    """Return the man page, in roff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    summary = (commands.help or "").splitlines()[0].rstrip(".")
    yield '.\\" Written by scripts/write_man_page.py from the help of the commands.'
    yield f'.TH MBV3C 1 "" "mbv3c {__version__}" "User Commands"'
    yield ".SH NAME"
    yield _text(f"mbv3c - {summary[0].lower()}{summary[1:]}").replace("\\-", "-", 1)
    yield ".SH SYNOPSIS"
    yield ".B mbv3c"
    yield _text("[OPTIONS] COMMAND [ARGUMENTS]")
    yield ".SH OPTIONS"
    context = click.Context(commands, info_name="mbv3c", **commands.context_settings)
    yield from _options(commands, context)
    yield ".SH COMMANDS"
    yield from _commands(commands, context)
    for head, table in (
        ("EXIT STATUS", _EXITS),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        yield f".SH {head}"
        for name, meaning in table.items():
            yield from _entry(name, meaning)


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    """Yield a section for each command, in the order of the help."""
    for name in group.list_commands(context):
        command = group.commands[name]
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)
            continue
        usage = " ".join(command.collect_usage_pieces(inner))
        yield f".SS {_text(inner.command_path)}"
        yield f".B {_text(inner.command_path)}"
        yield _text(usage)
        for paragraph in (command.help or "").split("\n\n"):
            yield ".PP"
            yield _text(" ".join(paragraph.split()))
        yield from _options(command, inner)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):
            yield from _entry(*record)
    # Click keeps the option for help as the first context that asked for it has named it.
    names = sorted(context.help_option_names, key=len)
    yield from _entry(", ".join(names), "Show this message and exit.")


def _entry(name: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(name)}"
    yield _text(" ".join(meaning.split()))


def _text(text: str) -> str:
    """Return text of one line that roff prints as it is."""
    escaped = "".join(_PRINTED.get(letter, letter) for letter in text)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
