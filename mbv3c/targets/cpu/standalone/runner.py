"""Run a C library on an emulated processor with Linux, in a program without a C library."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3c.c_library.on_files import main_source, read_outputs, write_inputs
from mbv3c.c_library.run import CLibrary
from mbv3c.execution.emulator.blocks import Counted, read_counts
from mbv3c.execution.emulator.cores import CoresKit
from mbv3c.execution.link import run_zig
from mbv3c.execution.processes import require
from mbv3c.feeds import Array, Feed
from mbv3c.scratch import scratch_folder
from mbv3c.targets.cpu.devices import CpuTarget

_SOURCES = Path(__file__).parent / "linux"
_HEADER, _SOURCE = "linux.h", "linux.c"
_FLAGS = (
    *("-std=c11", "-O2", "-g0", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-sanitize=all", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-static"),
)
# zig's own runtime then has what compilers call, and functions such as `expf`.
_SYSTEMS = {"armv7": "arm-freestanding-eabihf", "riscv64": "riscv64-freestanding"}
_TIMEOUT = 600.0  # seconds per input


@dataclass(frozen=True)
class LinuxRunner:
    """Runs the C library of a bundle under qemu-user.

    Attributes:
        kit: the emulators.
        target: the core.
        library: the library.
    """

    kit: CoresKit
    target: CpuTarget
    library: CLibrary

    header = _HEADER

    @property
    def description(self) -> str:
        return described(self.target)

    @property
    def cpu(self) -> str:
        return self.target.emulated_as

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        with scratch_folder("core") as folder:
            self.start(self.linked(folder), inputs, folder)
            return read_outputs(self.library, len(inputs), folder)

    def count(self, feed: Feed) -> Counted:
        """Count the instructions of one inference; functions go by their names in the plan.

        Raises:
            ToolError: the program fails, or the emulator cannot count.
        """
        with scratch_folder("core") as folder:
            program, out = self.linked(folder), folder / "counts"
            self.start(program, [feed], folder, ("-plugin", f"{self.kit.counter},out={out}"))
            counted = read_counts(out, program, self.description)
        prefix, sums = f"{self.library.prefix}_", Counter[str]()
        for name, number in counted.by_function.items():
            sums[name.removeprefix(prefix)] += number
        return replace(counted, by_function=dict(sums))

    def linked(self, folder: Path, source: str = "") -> Path:
        """Link a program with the library; by default one that runs it on files.

        Raises:
            ToolError: the compiler or the linker fails.
        """
        own = {
            "main.c": (source or main_source(self.library, _HEADER)).encode(),
            self.library.header.name: self.library.header.read_bytes(),
            **{name: (_SOURCES / name).read_bytes() for name in (_HEADER, _SOURCE)},
        }
        for name, text in own.items():
            (folder / name).write_bytes(text)
        program = folder / "program"
        core = f"-mcpu={self.target.cpu.replace('-', '_')}"
        run_zig(
            [
                *("cc", "-target", _SYSTEMS[self.target.arch], core, *_FLAGS),
                *("-I", str(folder), "-o", str(program), "main.c", _SOURCE),
                str(self.library.archive.absolute()),
            ],
            f"linking a program with {self.library.archive.name}",
            folder,
        )
        return program

    def start(
        self, program: Path, inputs: Sequence[Feed], folder: Path, options: Sequence[str] = ()
    ) -> None:
        """Run a program in `folder`, in which it finds the inputs.

        Raises:
            ToolError: it fails, or takes too long.
        """
        write_inputs(self.library, inputs, folder)
        cpu = ",".join(filter(None, (self.target.emulated_as, self.target.emulated_with)))
        require(
            [*self.kit.command(self.target.arch, cpu), *options, str(program)],
            doing=f"running lib{self.library.prefix}.a on the {self.description}",
            remedy="`mbv3c doctor` says whether the emulator is here",
            timeout=_TIMEOUT * max(1, len(inputs)),
            folder=folder,
        )


def described(target: CpuTarget) -> str:
    """Say what emulates a core."""
    return f"emulated {target.emulated_as}"
