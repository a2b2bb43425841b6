"""Arguments that are looked at when the command line is read, before TVM is imported.

What is wrong with them is said in a fraction of a second.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from mbv3c.door.formats import check_bundle_folder, check_model_file, check_there
from mbv3c.errors import UsageError
from mbv3c.nearest import among
from mbv3c.precision import PRECISIONS, find_precision
from mbv3c.targets import find_target, stands_for, target_names

_BOARDS = "mbv3c.boards"  # in a context's `meta`: what boards stand for that were named


class Place(click.Path):
    """A path at which something is there."""

    def __init__(self, check: Callable[[Path], None]) -> None:
        super().__init__(path_type=Path)
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> Path:
        path = Path(value)
        self._check(path)
        return path


class _Name(StringParamType):
    """A name that is known.

    `names` gives all that a shell may complete.
    """

    def __init__(
        self, find: Callable[[str], object], names: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._find, self._names = find, names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        known = dict.fromkeys(self._names())
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> str:
        self._find(str(value))
        return str(value)


class OneOf(click.Choice[str]):
    """A word out of a few."""

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> str:
        if value not in self.choices:
            self.fail(f"unknown {value!r}{among(str(value), self.choices)}", param, context)
        return str(value)


class _Target(_Name):
    """A target, or a board with one."""

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> str:
        name = super().convert(value, param, context)
        meant = stands_for(name)
        if meant and context is not None:
            context.meta.setdefault(_BOARDS, {})[meant] = None
        return name


def boards_named() -> list[str]:
    """Say what the boards stand for that were named to the command that runs."""
    context = click.get_current_context(silent=True)
    return list(context.meta.get(_BOARDS, ())) if context is not None else []


def _check_bundle_or_model(path: Path) -> None:
    (check_model_file if path.is_file() else check_bundle_folder)(path)


def _check_model_or_bundle(path: Path) -> None:
    (check_bundle_folder if path.is_dir() else check_model_file)(path)


MODEL = Place(check_model_file)
BUNDLE = Place(check_bundle_folder)
BUNDLE_OR_MODEL = Place(_check_bundle_or_model)  # what is missing is a bundle
MODEL_OR_BUNDLE = Place(_check_model_or_bundle)  # what is missing is a model
FILE = Place(check_there)
FOLDER = Place(lambda path: check_there(path, "folder"))
IMAGES = Place(lambda path: check_there(path, "file or folder"))  # or other inputs
TARGET = _Target(find_target, target_names)  # it is given on as it was written
PRECISION = _Name(find_precision, lambda: PRECISIONS)

target_option = click.option(
    "--target",
    type=TARGET,
    required=True,
    help="Name FAMILY[:DEVICE] or a board, see `mbv3c targets`.",
)


def check_different(files: Mapping[str, Path | None], folders: Mapping[str, Path | None]) -> None:
    """Make sure that no file is to be written where another one is, or a folder.

    Args:
        files: files to write, by their options.
        folders: folders that are made, by their options.

    Raises:
        UsageError: two places are one.
    """
    named: dict[Path, str] = {}
    for option, path in (*files.items(), *folders.items()):
        if path is None:
            continue
        other = named.setdefault(path.resolve(), option)
        if other != option and other in files:
            raise UsageError(
                f"{path.name} is named by two of the options, {other} and {option}; give each a "
                "place of its own"
            )
