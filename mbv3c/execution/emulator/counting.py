"""Count the instructions that a program executes on an emulated processor.

Executed instructions are exact and the same each time. They are no time: how many of them a real
core executes at once, and how long it waits for memory, the emulator does not know.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.errors import ToolError
from mbv3c.execution.emulator.fetch import emulator_command
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.emulator.opcodes import CLASSES, classify
from mbv3c.execution.emulator.symbols import Functions
from mbv3c.execution.processes import finish, require

# The first three set things up, such as the memory pools; the last two must do exactly the same.
_INFERENCES = 5
_TIMEOUT = 900.0

_Mapping = tuple[int, int, int, str]


@dataclass(frozen=True)
class InstructionBlock:
    """Instructions that run one after another, without a branch between them.

    Attributes:
        file: the file that they were loaded from; empty where there is none.
        offset: where in the file they begin.
        times: how often they ran.
        words: the instructions.
    """

    file: str
    offset: int
    times: int
    words: tuple[int, ...]

    @property
    def executed(self) -> int:
        return self.times * len(self.words)


@dataclass(frozen=True)
class Count:
    """What ran between the markers of a program.

    Attributes:
        regions: executed instructions of each region, in order.
        blocks: what ran in the last of them.
    """

    regions: tuple[int, ...]
    blocks: tuple[InstructionBlock, ...]

    @property
    def instructions(self) -> int:
        return self.regions[-1]

    def classes(self) -> dict[str, int]:
        """Return the executed instructions of each class."""
        found = dict.fromkeys(CLASSES, 0)
        for block in self.blocks:
            for word in block.words:
                found[classify(word)] += block.times
        return found


def count_bundle(kit: EmulatorKit, cpu: str, folder: Path) -> Count:
    """Count one inference of a bundle's golden input, on one core.

    Args:
        kit: the emulator and what it runs.
        cpu: the processor to emulate, in qemu's words.
        folder: the bundle, or a folder with its library and `golden/`.

    Raises:
        ToolError: the program fails, or two inferences differ.
    """
    counted = _count_inferences(kit, cpu, folder, _INFERENCES, ())
    if counted.regions[-1] != counted.regions[-2]:
        raise ToolError(
            f"the inferences of {folder.name} executed {counted.regions} instructions; "
            "the last two should be equal: please report this"
        )
    return counted


def count_kernels(
    kit: EmulatorKit, cpu: str, folder: Path, output: Path, *, timeout: float = _TIMEOUT
) -> Count:
    """Count one inference of a library, of which only the kernels are of interest.

    They execute the same instructions in every inference; TVM's memory pools, around them, may
    not yet, after so few.

    Args:
        kit: the emulator and what it runs.
        cpu: the processor to emulate, in qemu's words.
        folder: a folder with the library and its input, as in a bundle.
        output: where the first output goes; others beside it, as `output_files` names them.
        timeout: in seconds.

    Raises:
        ToolError: the program fails, or takes longer.
    """
    return _count_inferences(kit, cpu, folder, 2, (folder / GOLDEN_INPUT, output), timeout)


def _count_inferences(
    kit: EmulatorKit,
    cpu: str,
    folder: Path,
    times: int,
    files: tuple[Path, ...],
    timeout: float = _TIMEOUT,
) -> Count:
    # One thread runs every part of a parallel loop; more of them would spin and be counted.
    one_thread = ("-E", "TVM_NUM_THREADS=1")
    counted = count(
        lambda plugin: [
            *kit.command(cpu, *plugin, *one_thread),
            *("--repeat", str(times), str(folder), *map(str, files)),
        ],
        kit,
        doing=f"counting the instructions of {folder.name}",
        timeout=timeout,
    )
    if len(counted.regions) != times:
        raise ToolError(
            f"{len(counted.regions)} inferences of {folder.name} were counted, and {times} ran: "
            "please report this"
        )
    return counted


def count(
    command: Callable[[Sequence[str]], Sequence[str | Path]],
    kit: EmulatorKit,
    *,
    doing: str,
    timeout: float = _TIMEOUT,
) -> Count:
    """Count what a program executes between its markers `hint #100` and `hint #101`.

    Args:
        command: makes the command from the options that qemu must get.
        kit: the emulator that the command starts.
        doing: for messages, such as "counting the instructions of x".
        timeout: in seconds.

    Raises:
        ToolError: the emulator takes no plugins, or the program fails or marks nothing.
    """
    _require_plugins(kit)
    with tempfile.TemporaryDirectory(prefix="mbv3c-count-") as name:
        out = Path(name) / "counts"
        if "," in name:
            raise ToolError(f"the temporary folder {name} has a comma in its name; set TMPDIR")
        require(
            command(("-plugin", f"{kit.counter},out={out}")),
            doing=doing,
            remedy="`mbv3c doctor` checks the emulator",
            timeout=timeout,
        )
        if not out.is_file():
            raise ToolError(f"{doing} failed: the program marked no region")
        return read_counts(out.read_text())


def _require_plugins(kit: EmulatorKit) -> None:
    options = finish([*emulator_command(kit.system), "--help"], timeout=60).stdout
    if "-plugin" not in options:
        raise ToolError(
            "this emulator was built without plugins, which count instructions; the package "
            "qemu-user of Debian 12 has them, that of Debian 13 has not"
        )


def read_counts(text: str) -> Count:
    """Read what the plugin wrote."""
    regions: list[int] = []
    raw: list[tuple[int, int, tuple[int, ...]]] = []
    maps: list[_Mapping] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "region":
            regions.append(int(rest))
        elif kind == "block":
            address, times, *words = rest.split()
            raw.append((int(address, 16), int(times), tuple(int(word, 16) for word in words)))
        else:
            maps.append(_mapping(rest))
    blocks = (
        InstructionBlock(*_place(address, maps), times, words) for address, times, words in raw
    )
    return Count(tuple(regions), tuple(blocks))


def by_function(counted: Count, library: Functions) -> Counter[str]:
    """Sum the instructions of every function of a bundle's library.

    What ran elsewhere, in TVM's runtime and the C library, has the key "".
    """
    sums: Counter[str] = Counter()
    for block in counted.blocks:
        sums[function_of(block, library)] += block.executed
    return sums


def function_of(block: InstructionBlock, library: Functions) -> str:
    """Return the function of a bundle's library that a block is part of; "" if it is elsewhere."""
    inside = Path(block.file).name == LIBRARY
    return (library.at(block.offset) if inside else None) or ""


def _mapping(line: str) -> _Mapping:
    """Read a line of /proc/PID/maps: begin, end, offset in the file, file."""
    fields = line.split(maxsplit=5)
    begin, end = (int(address, 16) for address in fields[0].split("-"))
    return begin, end, int(fields[2], 16), fields[5] if len(fields) > 5 else ""


def _place(address: int, maps: Sequence[_Mapping]) -> tuple[str, int]:
    def holding() -> Iterator[tuple[str, int]]:
        for begin, end, offset, file in maps:
            if begin <= address < end:
                yield file, address - begin + offset

    return next(holding(), ("", 0))
