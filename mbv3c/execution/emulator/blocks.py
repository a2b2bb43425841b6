"""Count the instructions that a program executes, function by function.

It is for processors whose instructions have several lengths, and of which no classes are told.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from mbv3c.errors import ToolError
from mbv3c.execution.cache import build_with_zig, digest_of
from mbv3c.progress import Progress

_SOURCE = Path(__file__).with_name("blocks.c")
_FLAGS = (
    *("-target", "x86_64-linux-gnu.2.17", "-shared", "-fPIC", "-O2", "-s", "-std=c11"),
    *("-D_GNU_SOURCE", "-fvisibility=hidden", "-Wl,--allow-shlib-undefined"),
)


@dataclass(frozen=True)
class Counted:
    """What one inference executes.

    Attributes:
        instructions: number of executed instructions.
        by_function: of them, those of every function.
    """

    instructions: int
    by_function: dict[str, int]


def counter_in(folder: Path) -> Path:
    """Return where the counter, a plugin of the emulator, is in the folder of a kit."""
    recipe = _SOURCE.read_bytes() + " ".join(_FLAGS).encode()
    return folder / f"counter-{digest_of(recipe)}" / "counter.so"


def build_counter(place: Path, what: str, progress: Progress) -> None:
    """Build the counter into a folder; `what` is what messages call it.

    Raises:
        ToolError: zig is missing, or fails.
    """
    progress(f"building {what}")
    arguments = ["cc", str(_SOURCE), *_FLAGS, "-o", str(place / "counter.so")]
    build_with_zig(what, arguments, part="linker", timeout=600)


def read_counts(out: Path, program: Path, description: str) -> Counted:
    """Read what the counter wrote: of the last region the blocks, by the function they lie in.

    Raises:
        ToolError: the program marked nothing.
    """
    if not out.is_file():
        raise ToolError(f"{description} marked no inference: please report this")
    with program.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")
        found = {
            symbol["st_value"] & ~1: str(symbol.name)
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC"
        }
    addresses = sorted(found)
    regions, sums = list[int](), Counter[str]()
    for line in out.read_text().splitlines():
        kind, *words = line.split()
        if kind == "region":
            regions.append(int(words[0]))
            continue
        at = bisect_right(addresses, int(words[0], 16)) - 1
        sums[found[addresses[at]] if at >= 0 else ""] += int(words[1]) * int(words[2])
    return Counted(regions[-1], dict(sums))
