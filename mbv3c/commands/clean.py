"""The command `mbv3c clean`."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from mbv3c.commands.options import echo, json_option, print_json
from mbv3c.commands.places import OneOf
from mbv3c.errors import UsageError


@dataclass(frozen=True)
class _Kind:
    """Something that mbv3c keeps in its cache.

    Attributes:
        patterns: the names of its files and folders there.
        what: what it is, and how it comes back.
    """

    patterns: tuple[str, ...]
    what: str


KINDS = {
    "tools": _Kind(
        (
            *("emulator-kit-*", "llvm-kit-*", "mcu-kit-*", "opencl-kit-*", "opencl-runtime-*"),
            *("stopwatch-*", "zig", "driver-*", "lock"),
        ),
        "emulators and compilers: `mbv3c doctor --fetch`",
    ),
    "objects": _Kind(("objects",), "compiled kernels of CPUs: compiled again"),
    "programs": _Kind(("opencl-programs",), "compiled OpenCL kernels: built again"),
    "jobs": _Kind(("jobs", "job-images"), "results of searches and sweeps: computed again"),
    "costs": _Kind(("costs",), "what networks cost: asked again"),
    "accuracy": _Kind(("accuracy",), "images that `verify --images` has seen: run again"),
    "images": _Kind(("examples", "fashion-mnist-*"), "prepared images: read or fetched again"),
    "times": _Kind(("times.jsonl",), "how long commands took"),
}


@click.command()
@click.argument("kinds", metavar="[KIND]...", nargs=-1, type=OneOf(list(KINDS)))
@click.option("--all", "everything", is_flag=True, help="Remove all of it.")
@json_option
def clean(kinds: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Say what mbv3c keeps in its cache, and remove each KIND of it that is named.

    Without a KIND all are listed, and nothing is removed. What mbv3c did not make stays, as do
    bundles, tune_logs and trained networks. Let other commands of mbv3c end first.
    """
    from mbv3c.execution.cache import cache_root

    if kinds and everything:
        raise UsageError("--all and names of kinds exclude each other")
    root, chosen = cache_root(), set(KINDS if everything else kinds)
    rows = [
        {
            "kind": name,
            "bytes": emptied(name) if name in chosen else _bytes_of(root, kind),
            "removed": name in chosen,
            "what": kind.what,
        }
        for name, kind in KINDS.items()
    ]
    if as_json:
        print_json({"cache": str(root), "kinds": rows})
        return
    echo(f"in {root}:")
    for row in rows:
        state = "removed" if row["removed"] else ""
        shown = f"{int(str(row['bytes'])) / 2**20:,.1f} MiB"
        echo(f"{row['kind']:<10}{shown:>13}  {state:<8}{row['what']}")
    if not chosen:
        echo("nothing was removed: name what is to go, or --all")


def emptied(name: str) -> int:
    """Remove a kind of what is kept; return how many bytes that was."""
    from mbv3c.execution.cache import cache_root

    root, kind = cache_root(), KINDS[name]
    size = _bytes_of(root, kind)
    for place in _places(root, kind):
        _remove(place)
    return size


def _bytes_of(root: Path, kind: _Kind) -> int:
    return sum(map(_size, _places(root, kind)))


def _places(root: Path, kind: _Kind) -> Iterator[Path]:
    """Yield what is there of a kind."""
    for pattern in kind.patterns:
        yield from sorted(root.glob(pattern))


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    found = (each.lstat() for each in path.rglob("*") if each.is_symlink() or each.is_file())
    return sum(one.st_size for one in found)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; of a link only the link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)
