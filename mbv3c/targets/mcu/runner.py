"""Run a C library on an emulated board, as firmware would: bare metal, weights in flash."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbv3c.c_library.on_files import main_source, read_outputs, write_inputs
from mbv3c.c_library.run import CLibrary
from mbv3c.execution.emulator.blocks import Counted, read_counts
from mbv3c.execution.processes import require
from mbv3c.feeds import Array, Feed
from mbv3c.scratch import scratch_folder
from mbv3c.targets.mcu.devices import McuTarget
from mbv3c.targets.mcu.firmware import HEADER, link_program
from mbv3c.targets.mcu.kit import McuKit

_TIMEOUT = 120.0  # seconds per input


@dataclass(frozen=True)
class CountedOnBoard(Counted):
    """What one inference executes.

    Attributes:
        stack_bytes: the largest stack that the whole program had.
    """

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

    header = HEADER

    @property
    def description(self) -> str:
        return described(self.target)

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        with scratch_folder("board") as folder:
            self.start(self.linked(folder), inputs, folder)
            return read_outputs(self.library, len(inputs), folder)

    def count(self, feed: Feed) -> CountedOnBoard:
        """Count the instructions of one inference.

        Raises:
            ToolError: the program fails, or the emulator cannot count.
        """
        with scratch_folder("board") as folder:
            program, out = self.linked(folder), folder / "counts"
            self.start(program, [feed], folder, ("-plugin", f"{self.kit.counter},out={out}"))
            counted = read_counts(out, program, self.description)
            stack = int(np.fromfile(folder / "stack", np.uint32)[0])
            return CountedOnBoard(counted.instructions, counted.by_function, stack)

    def linked(self, folder: Path, source: str = "") -> Path:
        """Link a program with the library; by default one that runs it on files."""
        source = source or main_source(self.library, self.header)
        return link_program(self.library, self.target, source, folder, self.needs)

    def start(
        self, program: Path, inputs: Sequence[Feed], folder: Path, options: Sequence[str] = ()
    ) -> None:
        """Run a program in `folder`, in which it finds the inputs.

        Raises:
            ToolError: it fails, or takes too long.
        """
        write_inputs(self.library, inputs, folder)
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
