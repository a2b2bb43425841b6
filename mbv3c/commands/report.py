"""The command `mbv3c report`."""

import shlex
from pathlib import Path
from typing import Any

import click
from click.types import StringParamType

from mbv3c.commands.options import (
    PATH,
    Decorator,
    echo,
    force_option,
    json_option,
    print_json,
    taken,
)
from mbv3c.commands.places import BUNDLE, FILE, FOLDER, IMAGES
from mbv3c.door.formats import check_there

_FILES = ("verify", "outputs", "bench", "accuracy", "quantize", "tune")


class NamedFile(StringParamType):
    """A file, or a bundle's name, a sign of equality and its file; it is given on as written."""

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> str:
        text = str(value)
        name, sign, path = text.partition("=")
        check_there(Path(path) if name and sign and not Path(text).exists() else Path(text))
        return text


def _file(name: str, text: str) -> Decorator:
    return click.option(
        f"--{name}", type=NamedFile(), multiple=True, metavar="[BUNDLE=]FILE", help=text
    )


@click.command()
@click.argument("bundles", metavar="[BUNDLE]...", type=BUNDLE, nargs=-1)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default=Path("report.html"),
    show_default=True,
    help="Write the page to this file.",
)
@click.option(
    "--title", default="", help="Give it this title.  [default: the names of the bundles]"
)
@_file(
    "bench",
    "Show what `bench --json` printed: with --profile the kernels, too; with --device there.",
)
@_file("verify", "Show what `verify --json` printed.  [default: the verdict of compile]")
@_file("outputs", "Show what `verify --save-outputs` wrote.")
@_file("accuracy", "Show what `verify --images --json` printed.")
@_file("quantize", "Show what `quantize --json` printed.")
@_file("tune", "Show what `tune --json` printed.")
@click.option(
    "--database", type=FOLDER, help="Draw the history of the tuning databases in a folder."
)
@click.option(
    "--search",
    "searches",
    type=IMAGES,
    multiple=True,
    help="Show the folder of `search`; repeatable.",
)
@click.option(
    "--sweep",
    "sweeps",
    type=FILE,
    multiple=True,
    help="Show what `sweep --json` printed; repeatable.",
)
@force_option
@json_option
def report(bundles: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Write one page about bundles side by side: exactness, speed, memory, losses, accuracy.

    It shows what is in the bundles and in the files that are named, runs nothing, and says which
    command gives what is missing.
    """
    from mbv3c.report.report import LARGE, ReportRequest, write_report
    from mbv3c.report.subject import Files

    files = Files(**taken(given, *_FILES))
    written = write_report(ReportRequest(bundles, files=files, **given))
    if as_json:
        print_json(written.to_json())
        return
    echo(f"{written.path}: {written.bytes:,} bytes")
    for bundle, part, command in written.missing:
        echo(f"  {bundle} has no {part}: {shlex.join(['mbv3c', *command])}")
    if written.bytes > LARGE:
        echo(f"the page has more than {LARGE:,} bytes: name fewer bundles to hand it on")
