"""Count the instructions that a program executes on an emulated processor, class by class.

The count is exact, and equal each time. It is no time: the emulator does not know how many
instructions a real core executes at once, nor how long the core waits for memory.

The tables of the classes are those of the Arm Architecture Reference Manual for A-profile (DDI
0487), chapter "A64 Instruction Set Encoding": the main groups by bits 28:25, then FMLA and FMLS of
the groups "Advanced SIMD three same", "three same (FP16)" and "vector x indexed element".
"""

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.errors import ToolError
from mbv3c.execution.elf import SYMBOLS, read_elf
from mbv3c.execution.emulator.kit import EmulatorKit, emulator_command
from mbv3c.execution.processes import finish, require
from mbv3c.scratch import scratch_folder

_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION = 2


@dataclass(frozen=True)
class Functions:
    """The functions of a library.

    Attributes:
        offsets: first byte in the file of each function, ascending.
        names: name of each function, in the order of `offsets`.
    """

    offsets: tuple[int, ...]
    names: tuple[str, ...]

    def at(self, offset: int) -> str | None:
        """Return the last function that begins at or before an offset in the file.

        LLVM gives the body of a parallel loop no symbol, and puts it behind its function.
        """
        index = bisect_right(self.offsets, offset) - 1
        return self.names[index] if index >= 0 else None


def functions(library: Path) -> Functions:
    """Read the symbol table of a library that was not stripped.

    Raises:
        ToolError: it is no 64-bit little-endian ELF file, or has no symbol table.
    """
    elf = read_elf(library, "library")
    symbols = next((section for section in elf.sections if section.kind == SYMBOLS), None)
    if symbols is None:
        raise ToolError(f"{library} was stripped: it has no symbol table")
    texts = elf.sections[symbols.linked].offset
    names = {}
    for at in range(symbols.offset, symbols.offset + symbols.size, _SYMBOL.size):
        name, info, _, section, address, _ = _SYMBOL.unpack_from(elf.data, at)
        offset = elf.offset_of(address) if info & 15 == _FUNCTION and section else None
        if offset is not None:
            names[offset] = elf.text(texts + name)
    offsets = sorted(names)
    return Functions(tuple(offsets), tuple(names[offset] for offset in offsets))


VECTOR_FMLA = "vector_fmla"
OTHER_SIMD = "other_simd"
LOADS_STORES = "loads_stores"
BRANCHES = "branches"
INTEGER = "integer"
CLASSES = (VECTOR_FMLA, OTHER_SIMD, LOADS_STORES, BRANCHES, INTEGER)

# (mask, value) over a word; the bit that tells FMLS from FMLA is in none of the masks.
_FMLA = (
    (0xBF20FC00, 0x0E20CC00),  # three same, single and double precision
    (0xBF60FC00, 0x0E400C00),  # three same, half precision
    (0xBF80B400, 0x0F801000),  # by element, single and double precision
    (0xBFC0B400, 0x0F001000),  # by element, half precision
)
_BY_GROUP = {
    0b0101: INTEGER,  # data processing, register
    0b1101: INTEGER,
    0b1000: INTEGER,  # data processing, immediate
    0b1001: INTEGER,
    0b1010: BRANCHES,  # branches, exceptions, system instructions
    0b1011: BRANCHES,
    0b0111: OTHER_SIMD,  # scalar floating point and Advanced SIMD
    0b1111: OTHER_SIMD,
    0b0010: OTHER_SIMD,  # SVE
    0b0100: LOADS_STORES,
    0b0110: LOADS_STORES,
    0b1100: LOADS_STORES,
    0b1110: LOADS_STORES,
}


def classify(word: int) -> str:
    """Return the class of an instruction, one of CLASSES.

    Scalar multiply-adds are `other_simd`. What is unallocated counts as `integer`: it does not
    occur in a program that runs.
    """
    if any(word & mask == value for mask, value in _FMLA):
        return VECTOR_FMLA
    return _BY_GROUP.get(word >> 25 & 0b1111, INTEGER)


# The first ones set things up: the memory pools, and the lists of free memory of the C library.
# How many take part in the second depends on where its heap begins and on what lies in it, so on
# the lengths of paths and of the environment: of Large in int8 two to four. The last are equal.
_INFERENCES, _EQUAL = 8, 3
_TIMEOUT = 900.0

_Mapping = tuple[int, int, int, str]


@dataclass(frozen=True)
class InstructionBlock:
    """Instructions that run one after another, without a branch between them.

    Attributes:
        file: file that the instructions were loaded from; empty where there is none.
        offset: place of the first one in the file.
        times: number of runs, of all threads.
        words: the instructions, four bytes each.
        by_thread: number of runs of each thread, from the first to the last that ran the block.
    """

    file: str
    offset: int
    times: int
    words: tuple[int, ...]
    by_thread: tuple[int, ...] = ()

    @property
    def executed(self) -> int:
        return self.times * len(self.words)


@dataclass(frozen=True)
class Count:
    """What ran between the markers of a program.

    Attributes:
        regions: number of executed instructions of each region, in order.
        blocks: blocks that ran in the last region.
    """

    regions: tuple[int, ...]
    blocks: tuple[InstructionBlock, ...]

    @property
    def instructions(self) -> int:
        return self.regions[-1]

    def classes(self) -> dict[str, int]:
        """Return the executed instructions of each class."""
        executed = dict.fromkeys(CLASSES, 0)
        for block in self.blocks:
            for word in block.words:
                executed[classify(word)] += block.times
        return executed


def count_bundle(kit: EmulatorKit, cpu: str, folder: Path) -> Count:
    """Count one inference of a bundle's golden input, on one core.

    Args:
        kit: emulator and the program that it runs.
        cpu: qemu's name of the processor to emulate.
        folder: folder of the bundle, or with its library and `golden/`.

    Raises:
        ToolError: the program fails, or the last inferences differ.
    """
    counted = _count_inferences(kit, cpu, folder, _INFERENCES, ())
    if not is_settled(counted.regions):
        raise ToolError(
            f"the inferences of {folder.name} executed {counted.regions} instructions; "
            f"the last {_EQUAL} should be equal: please report this"
        )
    return counted


def is_settled(regions: Sequence[int]) -> bool:
    """Say whether the last inferences executed equal numbers of instructions."""
    return len(set(regions[-_EQUAL:])) == 1


def count_kernels(
    kit: EmulatorKit,
    cpu: str,
    folder: Path,
    output: Path,
    *,
    times: int = 2,
    timeout: float = _TIMEOUT,
) -> Count:
    """Count one inference of a library, of which only the kernels are of interest.

    They execute equal instructions in every inference; TVM's memory pools, around them, may
    not, after so few inferences.

    Args:
        kit: emulator and the program that it runs.
        cpu: qemu's name of the processor to emulate.
        folder: folder with the library and its input, as in a bundle.
        output: file for the first output; others go beside it, as `numbered_files` names them.
        times: number of inferences, of which the last is counted; from eight on what is around
            the kernels is equal, too.
        timeout: seconds after which the program is ended.

    Raises:
        ToolError: the program fails, or takes longer.
    """
    return _count_inferences(kit, cpu, folder, times, (folder / GOLDEN_INPUT, output), timeout)


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
        command: function from the options that qemu must get to the command.
        kit: emulator that the command starts.
        doing: what is done, for messages, such as "counting the instructions of x".
        timeout: seconds after which the program is ended.

    Raises:
        ToolError: the emulator takes no plugins, or the program fails or marks nothing.
    """
    _require_plugins(kit)
    with scratch_folder("count") as folder:
        out = folder / "counts"
        if "," in str(folder):
            raise ToolError(f"the temporary folder {folder} has a comma in its name; set TMPDIR")
        require(
            command(("-plugin", f"{kit.counter},out={out}")),
            doing=doing,
            remedy="`mbv3c doctor` checks the emulator",
            timeout=timeout,
        )
        if not out.is_file():
            raise ToolError(f"{doing} failed: the program marked no region")
        return read_counts(out.read_text())


@cache
def programs_of(kit: EmulatorKit) -> str:
    """Say which programs count: the emulator's version, and digests of what mbv3c built."""
    said = finish([*emulator_command(kit.system), "--version"], timeout=60).stdout
    version = said.partition("\n")[0]
    return f"{version}, {kit.runner.parent.name}, {kit.counter.parent.name}"


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
    raw: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []
    maps: list[_Mapping] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "region":
            regions.append(int(rest))
        elif kind == "block":
            address, times, *words = rest.split()
            by_thread = tuple(int(one) for one in times.split(","))
            raw.append((int(address, 16), by_thread, tuple(int(word, 16) for word in words)))
        else:
            maps.append(_mapping(rest))
    blocks = (
        InstructionBlock(*_place(address, maps), sum(by_thread), words, by_thread)
        for address, by_thread, words in raw
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


def by_thread(counted: Count, library: Functions) -> dict[str, tuple[int, ...]]:
    """Return the instructions of every function of a bundle's library, thread by thread.

    What ran elsewhere is left out: there, threads also wait for each other.
    """
    sums: dict[str, Counter[int]] = {}
    for block in counted.blocks:
        name = function_of(block, library)
        if name:
            added = {at: runs * len(block.words) for at, runs in enumerate(block.by_thread)}
            sums.setdefault(name, Counter()).update(added)
    return {
        name: tuple(counts[at] for at in range(max(counts) + 1)) for name, counts in sums.items()
    }


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
    holding = (
        (file, address - begin + offset)
        for begin, end, offset, file in maps
        if begin <= address < end
    )
    return next(holding, ("", 0))
