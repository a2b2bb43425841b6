"""The command `mbv3c sweep`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mbv3c.commands.engines import engine_options, take_engine
from mbv3c.commands.options import (
    PATH,
    Progress,
    all_of,
    echo,
    force_option,
    json_option,
    print_json,
    taken,
)
from mbv3c.commands.options_images import image_options
from mbv3c.commands.places import FILE, MODEL, TARGET, check_different
from mbv3c.commands.wrapping import columns_of

_LISTS = "separate several by commas"
_NUMBERS: dict[str, Callable[[str], Any]] = {
    "width": float,
    "resolution": int,
    "classes": int,
    "seed": int,
}
_WORDS = ("network", "variant", "head", "precisions")

grid_options = all_of(
    click.option("--network", help=f"Compare networks of `build`; {_LISTS}."),
    click.option("--variant", help=f"Compare large, small; {_LISTS}."),
    click.option("--width", help=f"Compare width multipliers; {_LISTS}."),
    click.option("--resolution", help=f"Compare sides of the input; {_LISTS}."),
    click.option("--head", help=f"Compare heads of `build`; {_LISTS}."),
    click.option("--classes", help="Give so many classes.  [default: those of --images, or 1000]"),
    click.option("--seed", help=f"Draw weights from these seeds; {_LISTS}."),
    click.option(
        "--architecture", type=FILE, multiple=True, help="Compare a file of layers of your own."
    ),
    click.option("--model", type=MODEL, multiple=True, help="Compare an ONNX file."),
    click.option(
        "--target",
        "targets",
        type=TARGET,
        multiple=True,
        help="Compare on FAMILY[:DEVICE] or a board; may be repeated.",
    ),
    click.option("--precision", "precisions", help=f"Compare fp32, fp16, bf16, int8; {_LISTS}."),
    image_options(required=False),
    click.option(
        "--train-steps", type=int, help="Train networks without trained weights so long."
    ),
    click.option(
        "--compile", "compile", is_flag=True, default=None, help="Compile and verify each, too."
    ),
)


@click.command()
@click.argument("grid", type=FILE, required=False)
@grid_options
@click.option("--plot", type=PATH, help="Draw the fronts: a .png or .svg file.")
@click.option("--save", type=PATH, help="Write the trained models and the bundles to this folder.")
@engine_options
@force_option
@json_option
def sweep(
    grid: Path | None,
    plot: Path | None,
    save: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare networks, targets and precisions: those of GRID, a YAML file, or of the options.

    Interrupt it whenever you like: what was computed is kept, and the next run goes on.
    """
    from mbv3c.errors import EXIT_FAILED, UsageError
    from mbv3c.figures import check_figure
    from mbv3c.search import sweep_report
    from mbv3c.search.grid import from_options, read_grid
    from mbv3c.search.sweep import sweep as swept

    engine_words = taken(given, "cluster", "jobs", "store")
    said = {name: value for name, value in given.items() if value not in (None, ())}
    if grid is not None and said:
        raise UsageError(
            f"{_option(min(said))} and a GRID exclude each other: write it into {grid}"
        )
    asked = read_grid(grid) if grid is not None else from_options(_fields(said))
    if plot is not None:
        check_figure(plot, force=force)
    check_different({"--plot": plot}, {"--save": save, "--store": engine_words["store"]})
    if save is not None:
        sweep_report.check_save(save, force=force)
    progress = Progress()
    with take_engine(engine_words, progress) as (engine, store):
        found = swept(asked, store, engine, progress)
    if plot is not None:
        sweep_report.draw(found, plot, force=force)
    if save is not None:
        sweep_report.save(found, save, force=force)
    if as_json:
        print_json(sweep_report.document(found))
    else:
        echo("\n".join(sweep_report.lines(found, columns_of(sys.stdout))))
    if any(one.failed for one in found.combinations):
        click.get_current_context().exit(EXIT_FAILED)


def _option(name: str) -> str:
    (option,) = (one for one in sweep.params if one.name == name)
    return option.opts[0]


def _fields(said: dict[str, Any]) -> dict[str, Any]:
    """Return options as a grid has them: lists, numbers, text.

    Raises:
        UsageError: something is no number.
    """
    from mbv3c.errors import UsageError

    fields: dict[str, Any] = {}
    for name, value in said.items():
        if name in _NUMBERS:
            try:
                fields[name] = [_NUMBERS[name](part) for part in value.split(",")]
            except ValueError as error:
                raise UsageError(
                    f"--{name} {value!r} is not a number, nor are several by commas"
                ) from error
        elif name in _WORDS:
            fields[name] = [part.strip() for part in value.split(",")]
        elif isinstance(value, tuple):
            fields[name] = [str(one) for one in value]
        else:
            fields[name] = str(value) if isinstance(value, Path) else value
    if (steps := fields.pop("train_steps", None)) is not None:
        fields["train"] = {"steps": steps}
    return fields
