"""Estimate the cycles of what the emulator counted: runs of every block times its steady state.

llvm-mca knows which pipes of a core an instruction takes and for how long, and simulates a block
that repeats itself. It leaves out caches, branch prediction and what one block does to the next.
An estimate ranks programs; it is no time.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3c.bundle import LIBRARY
from mbv3c.execution.emulator.counting import (
    BRANCHES,
    Count,
    Functions,
    InstructionBlock,
    by_function,
    classify,
    function_of,
    functions,
)
from mbv3c.execution.emulator.llvm import LLVM_REMEDY, Llvm, find_llvm
from mbv3c.execution.processes import require
from mbv3c.scratch import scratch_folder

CYCLES = "estimated cycles"  # the unit, wherever it is printed

# The steady state is the difference between the two, per iteration: what fills the pipes falls
# out. Summed over MobileNetV3-Small on a Neoverse N1, more iterations changed it by 0.02 %.
_ITERATIONS = (8, 24)
_TIMEOUT = 600.0
_TRIPLE, _ALL = "aarch64-linux-gnu", "-mattr=+all"
_REMEDY = f"see to LLVM's programs: {LLVM_REMEDY}"


@dataclass(frozen=True)
class Estimator:
    """What estimates cycles.

    Attributes:
        llvm: LLVM's programs.
        model: LLVM's name of the processor whose scheduling model is used.
    """

    llvm: Llvm
    model: str

    @property
    def description(self) -> str:
        return f"llvm-mca {self.llvm.version} with the model of {self.model}"


@dataclass(frozen=True)
class CycleEstimate:
    """Estimated cycles.

    Attributes:
        stretches: instructions that ran, in pieces that end at branches.
        cycles: cycles of one run of each stretch.
        left_out: number of executed instructions that LLVM cannot read, or that the model lacks;
            they cost nothing here.
    """

    stretches: tuple[InstructionBlock, ...]
    cycles: tuple[float, ...]
    left_out: int

    @property
    def total(self) -> float:
        return sum(
            block.times * cycles for block, cycles in zip(self.stretches, self.cycles, strict=True)
        )

    def by_function(self, library: Functions) -> Counter[str]:
        """Sum the cycles of every function of a library, as `counting.by_function` does."""
        sums: dict[str, float] = defaultdict(float)
        for block, cycles in zip(self.stretches, self.cycles, strict=True):
            sums[function_of(block, library)] += block.times * cycles
        return Counter({name: round(cycles) for name, cycles in sums.items()})


def estimator_for(model: str | None) -> Estimator | None:
    """Return what estimates cycles by a scheduling model; None without it or LLVM's programs."""
    llvm = find_llvm() if model else None
    return Estimator(llvm, model) if llvm and model else None


def estimate(estimator: Estimator, blocks: Iterable[InstructionBlock]) -> CycleEstimate:
    """Estimate what blocks cost; equal blocks give equal estimates.

    Raises:
        ToolError: one of LLVM's programs fails.
    """
    stretches = joined(blocks)
    distinct = sorted({block.words for block in stretches})
    texts = _disassembled(estimator, sorted({word for words in distinct for word in words}))
    few, many = (_simulated(estimator, distinct, texts, times) for times in _ITERATIONS)
    between = _ITERATIONS[1] - _ITERATIONS[0]
    cost, missing = {}, {}
    for number, words in enumerate(distinct):
        (before, _), (after, taken) = few.get(number, (0, 0)), many.get(number, (0, 0))
        cost[words] = (after - before) / between
        missing[words] = len(words) - taken // _ITERATIONS[1]
    return CycleEstimate(
        tuple(stretches),
        tuple(cost[block.words] for block in stretches),
        sum(block.times * missing[block.words] for block in stretches),
    )


def joined(blocks: Iterable[InstructionBlock]) -> list[InstructionBlock]:
    """Put blocks behind one another that the emulator cut where there is no branch.

    It cuts after some ninety instructions and at the end of a page. A block that was only ever
    reached from the one before it is no block of its own; where several lead into it, each gets
    it. Blocks that it translated twice stay as they are.
    """
    blocks = list(blocks)
    places = Counter((block.file, block.offset) for block in blocks)
    at = {place: block for block in blocks if places[place := (block.file, block.offset)] == 1}
    following = {
        place: follower
        for place, block in at.items()
        if classify(block.words[-1]) != BRANCHES
        and (follower := at.get((block.file, block.offset + 4 * len(block.words))))
    }
    fallen: Counter[tuple[str, int]] = Counter()
    for place, follower in following.items():
        fallen[follower.file, follower.offset] += at[place].times
    inner = {place for place, times in fallen.items() if times == at[place].times}
    stretches = []
    for block in blocks:
        if (block.file, block.offset) in inner:
            continue
        words, last = list(block.words), block
        while (follower := following.get((last.file, last.offset))) is not None:
            if (follower.file, follower.offset) not in inner:
                break
            words += follower.words
            last = follower
        stretches.append(replace(block, words=tuple(words)))
    return stretches


def _disassembled(estimator: Estimator, words: Sequence[int]) -> dict[int, str]:
    """Return the words that LLVM can read, as it writes them."""
    with scratch_folder("cycles") as folder:
        source = folder / "words.txt"
        lines = [" ".join(f"0x{b:02x}" for b in word.to_bytes(4, "little")) for word in words]
        source.write_text("".join(f"{line}\n" for line in lines))
        done = require(
            [*estimator.llvm.mc, "--disassemble", f"-triple={_TRIPLE}", _ALL, source],
            doing="disassembling the instructions",
            remedy=_REMEDY,
            timeout=_TIMEOUT,
        )
    # A word that it cannot read is a warning that names its line, and no line of the output.
    prefix = f"{source}:"
    unread = {
        int(line.removeprefix(prefix).partition(":")[0]) - 1
        for line in done.stderr.splitlines()
        if line.startswith(prefix)
    }
    lines = [line for line in done.stdout.splitlines() if not line.lstrip().startswith(".")]
    read = [word for number, word in enumerate(words) if number not in unread]
    return dict(zip(read, lines, strict=True))


def _simulated(
    estimator: Estimator,
    stretches: Sequence[tuple[int, ...]],
    texts: Mapping[int, str],
    iterations: int,
) -> dict[int, tuple[int, int]]:
    """Return the cycles and the instructions of that many iterations, by number of the stretch.

    A stretch of which nothing can be simulated is left out. A stretch of our own comes first: a
    file of which nothing can be simulated would be an error.
    """
    with scratch_folder("cycles") as folder:
        source = folder / "stretches.s"
        with source.open("w") as file:
            file.write("# LLVM-MCA-BEGIN -1\nnop\n# LLVM-MCA-END -1\n")
            for number, words in enumerate(stretches):
                lines = [texts[word] for word in words if word in texts]
                file.write(f"# LLVM-MCA-BEGIN {number}\n")
                file.writelines(f"{line}\n" for line in lines)
                file.write(f"# LLVM-MCA-END {number}\n")
        done = require(
            [
                *(*estimator.llvm.mca, f"-mtriple={_TRIPLE}", _ALL, f"-mcpu={estimator.model}"),
                *(f"-iterations={iterations}", "-json"),
                *("-instruction-info=0", "-resource-pressure=0", source),
            ],
            doing="estimating cycles",
            remedy=_REMEDY,
            timeout=_TIMEOUT,
        )
    regions = json.loads(done.stdout)["CodeRegions"] if done.stdout.strip() else []
    summaries = {int(region["Name"]): region["SummaryView"] for region in regions}
    return {at: (row["TotalCycles"], row["Instructions"]) for at, row in summaries.items()}


_PREFIX, _BODY = "__tvm_ffi_", "_compute_"


ELSEWHERE = "elsewhere"


def instructions_by_kernel(counted: Count, folder: Path) -> Counter[str]:
    """Sum the instructions of every kernel of a library that has its symbols, all calls."""
    return by_kernel(by_function(counted, functions(folder / LIBRARY)))


def cycles_by_kernel(counted: Count, folder: Path, estimator: Estimator) -> Counter[str]:
    """Sum the estimated cycles of every kernel of a library that has its symbols, all calls.

    Raises:
        ToolError: one of LLVM's programs fails.
    """
    inside = (block for block in counted.blocks if Path(block.file).name == LIBRARY)
    return by_kernel(estimate(estimator, inside).by_function(functions(folder / LIBRARY)))


def by_kernel(by_symbol: Mapping[str, int]) -> Counter[str]:
    """Sum what is known of a library's functions by the kernel that each is part of."""
    sums: Counter[str] = Counter()
    for symbol, number in by_symbol.items():
        sums[symbol.removeprefix(_PREFIX).removesuffix(_BODY)] += number
    return sums
