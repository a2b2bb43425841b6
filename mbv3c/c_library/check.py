"""Check a C library against the shared library that was built of the same kernels.

The shared library is compared with onnxruntime, kernel by kernel where it can be. The C library
calls these kernels in another frame, so its outputs must be equal to the last bit.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mbv3c.c_library.archive import ArchiveObject
from mbv3c.c_library.run import CLibrary, Machine, run_c_library
from mbv3c.feeds import Array, Feed


@dataclass(frozen=True)
class CLibraryParity:
    """What a C library has shown.

    Attributes:
        inputs: the number of inputs that it was run on; 0 if nothing here can run it.
        values: the number of values that were compared.
        differing: the number of values that are not those of the shared library.
        constants_differ: whether its constants are not those of the model.
        stack_bytes: the most that a call used of the stack; 0 if nothing here can run it.
    """

    inputs: int = 0
    values: int = 0
    differing: int = 0
    constants_differ: bool = False
    stack_bytes: int = 0

    @property
    def passed(self) -> bool:
        return not self.differing and not self.constants_differ

    @property
    def missed(self) -> list[str]:
        """What is wrong with it, in words."""
        return [] if self.passed else [self.finding]

    @property
    def finding(self) -> str:
        """What it has shown, in words."""
        if self.constants_differ:
            return "the C library has other constants than its model gives"
        if not self.inputs:
            return "the C library was not run: nothing here runs its programs"
        if self.differing:
            return (
                f"the C library: {self.differing} of {self.values} values are not those of the "
                "shared library, which has equal kernels"
            )
        return (
            f"the C library gives equal bits over {self.inputs} inputs, with {self.stack_bytes:,} "
            "bytes of stack"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {**asdict(self), "passed": self.passed, "finding": self.finding}


@dataclass(frozen=True)
class FilesParity:
    """What came of writing the files in C of a bundle once more.

    Attributes:
        count: the number of files.
        differing: what differs, in words, file by file.
    """

    count: int
    differing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.differing

    @property
    def missed(self) -> list[str]:
        """What is wrong, in words."""
        return list(self.differing)

    @property
    def finding(self) -> str:
        """What was seen, in words."""
        if self.passed:
            return f"its {self.count} files in C are what its model gives"
        return f"WRONG in C: {'; '.join(self.differing)}"

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {**asdict(self), "passed": self.passed, "finding": self.finding}


def check_c_library(
    library: CLibrary, machine: Machine, feeds: Sequence[Feed], expected: Sequence[Sequence[Array]]
) -> CLibraryParity:
    """Run a C library and compare its outputs with those of the shared one, bit by bit.

    Raises:
        ToolError: it cannot be linked, or it crashes.
    """
    values = differing = 0
    runs = run_c_library(library, machine, feeds)
    for ours, theirs in zip(runs.outputs, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            values += mine.size
            differing += int(np.sum(bits_of(mine) != bits_of(other)))
    return CLibraryParity(len(feeds), values, differing, stack_bytes=runs.stack_bytes)


def has_constants(library: CLibrary, constants: bytes) -> bool:
    """Say whether the archive of a library holds these constants.

    Raises:
        BundleError: it is no archive with an object that has constants.
    """
    stored = ArchiveObject(library.archive).weights(library.prefix, len(constants))
    return stored == constants


def bits_of(array: Array) -> Array:
    """Return an array's elements as unsigned numbers: NaN is equal to NaN, and 0 is not -0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").ravel()
