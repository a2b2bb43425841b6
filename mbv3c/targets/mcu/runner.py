"""Run a C library on an emulated board, as firmware would: bare metal, weights in flash."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from elftools.elf.elffile import ELFFile

from mbv3c.c_library.run import CLibrary
from mbv3c.errors import ToolError
from mbv3c.execution.processes import require
from mbv3c.feeds import Array, Feed, arrays_of, save_raw
from mbv3c.scratch import scratch_folder
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.mcu.firmware import link_program, main_source
from mbv3c.targets.mcu.kit import McuKit

_TIMEOUT = 120.0  # seconds per input


@dataclass(frozen=True)
class Counted:
    """What one inference executes.

    Attributes:
        instructions: number of executed instructions.
        by_function: of them, those of every function.
        stack_bytes: the largest stack that the whole program had.
    """

    instructions: int
    by_function: dict[str, int]
    stack_bytes: int


@dataclass(frozen=True)
class BoardRunner:
    """Runs the C library of a bundle on an emulated board.

    Attributes:
        kit: the emulator.
        target: the core.
        library: the library.
        needs: functions that the library needs.
    """

    kit: McuKit
    target: McuTarget
    library: CLibrary
    needs: Sequence[str]

    @property
    def description(self) -> str:
        return described(self.target)

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        with scratch_folder("board") as folder:
            self.start(self.linked(folder), inputs, folder)
            return [
                [
                    np.fromfile(folder / f"{at}.{number}.out", record.dtype).reshape(record.shape)
                    for number, record in enumerate(self.library.outputs)
                ]
                for at in range(len(inputs))
            ]

    def count(self, feed: Feed) -> Counted:
        """Count the instructions of one inference.

        Raises:
            ToolError: the program fails, or the emulator cannot count.
        """
        with scratch_folder("board") as folder:
            program, out = self.linked(folder), folder / "counts"
            self.start(program, [feed], folder, ("-plugin", f"{self.kit.counter},out={out}"))
            if not out.is_file():
                raise ToolError(f"{self.description} marked no inference: please report this")
            stack = int(np.fromfile(folder / "stack", np.uint32)[0])
            return _read_counts(out.read_text(), program, stack)

    def linked(self, folder: Path, source: str = "") -> Path:
        """Link a program with the library; by default one that runs it on files."""
        source = source or main_source(self.library)
        return link_program(self.library, self.target, source, folder, self.needs)

    def start(
        self, program: Path, inputs: Sequence[Feed], folder: Path, options: Sequence[str] = ()
    ) -> None:
        """Run a program in `folder`, in which it finds the inputs.

        Raises:
            ToolError: it fails, or takes too long.
        """
        for at, feed in enumerate(inputs):
            pairs = zip(arrays_of(feed), self.library.inputs, strict=True)
            for number, (array, record) in enumerate(pairs):
                save_raw(folder / f"{at}.{number}.in", array.astype(record.dtype, copy=False))
        board = self.target.board
        require(
            [
                *self.kit.command,
                *("-machine", board.machine, "-cpu", board.cpu, *options),
                *("-display", "none", "-serial", "none", "-monitor", "none", "-nic", "none"),
                *("-semihosting-config", "enable=on,target=native"),
                *("-kernel", str(program)),
            ],
            doing=f"running lib{self.library.prefix}.a on the {self.description}",
            remedy="`mbv3c doctor` says whether the emulator is here",
            timeout=_TIMEOUT * max(1, len(inputs)),
            folder=folder,
        )


def described(target: McuTarget) -> str:
    """Say what emulates a core."""
    board = target.board
    nearest = "" if target.is_emulated else f", the nearest to a {target.cpu}"
    return f"emulated {board.cpu} ({board.machine}, bare metal{nearest})"


def _read_counts(text: str, program: Path, stack: int) -> Counted:
    """Read what the counter wrote: of the last region the blocks, by the function they lie in."""
    with program.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")
        found = {
            symbol["st_value"] & ~1: str(symbol.name)
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC"
        }
    addresses = sorted(found)
    regions, sums = list[int](), Counter[str]()
    for line in text.splitlines():
        kind, *words = line.split()
        if kind == "region":
            regions.append(int(words[0]))
            continue
        at = bisect_right(addresses, int(words[0], 16)) - 1
        name = found[addresses[at]] if at >= 0 else ""
        sums[name] += int(words[1]) * int(words[2])
    return Counted(regions[-1], dict(sums), stack)
