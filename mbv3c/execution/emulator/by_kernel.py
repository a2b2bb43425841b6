"""Counted instructions and estimated cycles, kernel by kernel."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mbv3c.bundle import LIBRARY
from mbv3c.execution.emulator.counting import Count, by_function
from mbv3c.execution.emulator.cycles import Estimator, estimate
from mbv3c.execution.emulator.symbols import functions

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
        sums[_kernel_of(symbol)] += number
    return sums


def _kernel_of(symbol: str) -> str:
    """Return the kernel that a function of the library is, or is part of."""
    return symbol.removeprefix(_PREFIX).removesuffix(_BODY)
