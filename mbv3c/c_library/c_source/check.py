"""Check a library of C11: compile it as an application does, and compare what it computes."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbv3c.c_library.c_source.arrays import weights_of, weights_text
from mbv3c.c_library.c_source.build import ALIGNMENT
from mbv3c.c_library.check import CLibraryParity, bits_of
from mbv3c.c_library.run import CLibrary, Machine, run_c_library
from mbv3c.execution.link import run_zig
from mbv3c.feeds import Array, Feed
from mbv3c.lowering.lower import Lowered
from mbv3c.manifest import TensorRecord
from mbv3c.scratch import scratch_folder

# Where a compiler rounds a product and a sum one by one, and the shared library at once, sums
# differ in their last bits. This is what `verify` allows a whole network in fp32.
ROUNDING = 1e-5
STRICT = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror")
CONTRACTED = "-ffp-contract=fast"
_FLAGS = (*STRICT, "-fPIC", "-O2", "-g0", "-fno-sanitize=all", "-fno-stack-protector")


@dataclass(frozen=True)
class CSource:
    """A library of C11 on disk.

    Attributes:
        prefix: what every name begins with.
        header: its header.
        sources: all sources; what is compiled ends in .c.
        inputs, outputs: what it takes and gives.
    """

    prefix: str
    header: Path
    sources: Sequence[Path]
    inputs: Sequence[TensorRecord]
    outputs: Sequence[TensorRecord]

    @property
    def weights(self) -> Path:
        """The source with the weights."""
        (path,) = (each for each in self.sources if each.name == f"{self.prefix}_weights.c")
        return path


@dataclass(frozen=True)
class CSourceParity(CLibraryParity):
    """What a library of C11 has shown.

    Attributes:
        error: the largest difference from the shared library, as a fraction of an output's range.
    """

    error: float = 0.0

    @property
    def passed(self) -> bool:
        return self.error <= ROUNDING and not self.constants_differ

    @property
    def finding(self) -> str:
        if self.constants_differ:
            return "the C sources have other constants than their model gives"
        if not self.inputs:
            return "the C sources were not run: nothing here runs their programs"
        if not self.differing:
            return (
                f"the C sources, compiled by clang, give equal bits over {self.inputs} inputs, "
                f"with {self.stack_bytes:,} bytes of stack"
            )
        return (
            f"the C sources, compiled by clang: {self.differing:,} of {self.values:,} values are "
            f"not those of the shared library, by up to {self.error:.1e} of the range "
            f"({ROUNDING:.0e} is allowed)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {**super().to_json(), "error": float(self.error)}


@contextmanager
def compiled(
    source: CSource, machine: Machine, flags: Sequence[str] = (CONTRACTED,)
) -> Iterator[CLibrary]:
    """Compile a library by clang, without a warning.

    Raises:
        ToolError: the compiler refuses or warns.
    """
    with scratch_folder("c-source") as folder:
        # Only these are hashed: what else lies in their folders must not be compiled.
        for path in (source.header, *source.sources):
            shutil.copyfile(path, folder / path.name)
        objects = []
        for path in source.sources:
            if path.suffix != ".c":
                continue
            made = str(folder / path.with_suffix(".o").name)
            target = ("-target", f"{machine.architecture}-linux-gnu.2.28")
            run_zig(
                ["cc", "-c", *target, *_FLAGS, *flags, "-o", made, str(folder / path.name)],
                f"compiling {path.name}",
            )
            objects.append(made)
        archive = folder / f"lib{source.prefix}.a"
        run_zig(["ar", "rcsD", archive.name, *objects], f"writing {archive.name}", folder)
        header = folder / source.header.name
        yield CLibrary(source.prefix, header, archive, source.inputs, source.outputs)


def check_c_source(
    source: CSource,
    machine: Machine,
    processor: str,
    feeds: Sequence[Feed],
    expected: Sequence[Sequence[Array]],
) -> CSourceParity:
    """Compile and run a library of C11, and compare its outputs with those of the shared one.

    Args:
        source: the library.
        machine: what runs it.
        processor: what LLVM calls the processor that it is compiled for.
        feeds: the inputs.
        expected: what the shared library makes of them.

    Raises:
        ToolError: the compiler refuses or warns, or the program crashes.
    """
    flags = (f"-mcpu={processor.replace('-', '_')}", CONTRACTED)
    with compiled(source, machine, flags) as library:
        runs = run_c_library(library, machine, feeds)
    values = differing = 0
    error = 0.0
    for ours, theirs in zip(runs.outputs, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            different = bits_of(mine) != bits_of(other)
            values += mine.size
            differing += int(np.sum(different))
            if different.any():
                error = max(error, _error(mine, other))
    return CSourceParity(len(feeds), values, differing, False, runs.stack_bytes, error)


def _error(ours: Array, theirs: Array) -> float:
    """Return the largest difference as a fraction of the range; whole numbers must be equal."""
    if ours.dtype.kind != "f":
        return float("inf")
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    error, span = float(np.abs(one - other).max()), float(np.ptp(other))
    if not np.isfinite(error):
        return float("inf")
    return error / span if span > 0 else float("inf") if error else 0.0


def has_weights(source: CSource, lowered: Lowered) -> bool:
    """Say whether the source of the weights is the one that a network gives."""
    return source.weights.read_text() == weights_text(
        source.prefix, weights_of(lowered), ALIGNMENT
    )
