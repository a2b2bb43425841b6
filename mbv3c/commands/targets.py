"""The command `mbv3c targets`."""

from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import echo, json_option, print_json

if TYPE_CHECKING:
    from mbv3c.boards import Board

_COLUMNS = 80


@click.command()
@click.option(
    "--board", "--boards", "boards", is_flag=True, help="List boards, phones and servers instead."
)
@json_option
def targets(boards: bool, as_json: bool) -> None:
    """List what mbv3c compiles for: targets, and with --board the boards that have them."""
    from mbv3c.targets import every_wing

    if boards:
        _list_boards(as_json)
        return

    rows: dict[str, list[dict[str, Any]]] = {}
    lines: list[str] = []
    for wing in every_wing():
        table = wing.table
        if table.header not in lines:
            lines += [*([""] if lines else []), table.header]
        for target in wing.targets:
            is_default = wing.is_default(target)
            name = target.name + "*" * is_default
            line = f"{name:<{table.wide}}{table.line(target)}"
            lines += _within(line, table.header)
            row = {"name": target.name, **table.row(target), "default": is_default}
            rows.setdefault(table.key, []).append(row)
    if as_json:
        print_json(rows)
        return
    echo("\n".join([*lines, "* the family's default"]))


def _within(line: str, header: str) -> list[str]:
    """Break what is too long for a terminal: its last column goes on below itself."""
    indent = " " * (header.rfind(" ") + 1)
    return wrap(line, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False)


def _list_boards(as_json: bool) -> None:
    from mbv3c.boards import BOARDS, every_part
    from mbv3c.targets import target_of

    if as_json:
        print_json({"boards": [board_row(board) for board in BOARDS]})
        return
    lines = [f"{'board':<18}{'target':<27}{'cores':>5}  what it is"]
    for board, part in every_part():
        target = target_of(part).name
        marked = target + "~" * (target != part.targets[0])
        what = board.product if part is board.parts[0] else part.what
        lines.append(f"{board.spelled(part):<18}{marked:<27}{part.cores or '':>5}  {what}")
    echo("\n".join([*lines, "~ stands in for a core that has no target of its own"]))


def board_row(board: "Board") -> dict[str, Any]:
    """Return the documented JSON form of a row of the table of boards."""
    from mbv3c.targets import target_of

    parts = [
        {
            "name": board.spelled(part),
            "what": part.what,
            "target": target_of(part).name,
            "stands_in": target_of(part).name != part.targets[0],
            "core": part.core or None,
            "cores": part.cores or None,
            "mhz": part.mhz or None,
            "note": part.note,
            "source": part.source,
        }
        for part in board.parts
    ]
    return {
        "name": board.name,
        "product": board.product,
        "chip": board.chip,
        "parts": parts,
        "memory_kib": list(board.memory_kib),
        "source": board.source,
        "unserved": board.unserved,
    }
