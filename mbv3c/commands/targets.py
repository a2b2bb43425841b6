"""The command `mbv3c targets`."""

from typing import Any

import click

from mbv3c.commands.options import echo, json_option, print_json


@click.command()
@json_option
def targets(as_json: bool) -> None:
    """List what mbv3c compiles for."""
    from mbv3c.targets import every_wing

    rows: dict[str, list[dict[str, Any]]] = {}
    lines: list[str] = []
    for wing in every_wing():
        table = wing.table
        if table.header not in lines:
            lines += [*([""] if lines else []), table.header]
        for target in wing.targets:
            is_default = wing.is_default(target)
            lines.append(f"{target.name + '*' * is_default:<33}{table.line(target)}")
            row = {"name": target.name, **table.row(target), "default": is_default}
            rows.setdefault(table.key, []).append(row)
    if as_json:
        print_json(rows)
        return
    echo("\n".join([*lines, "* the family's default"]))
