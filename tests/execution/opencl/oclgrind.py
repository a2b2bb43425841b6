"""Run one OpenCL kernel under oclgrind, which checks every access that it makes.

oclgrind interprets the kernel: it finds accesses outside of buffers, data races between
work-items, and uses of values that nothing has written. A million work-items take minutes.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import ToolError
from mbv3c.execution.opencl.kit import OCLGRIND_REMEDY, oclgrind_command
from mbv3c.execution.processes import finish

_OPTIONS = ("--data-races", "--uninitialized", "--max-errors", "20")
# oclgrind knows no half. What a kernel reads and writes does not depend on the type's size, so
# such a kernel is checked with float in its place.
_WIDTHS = ("", "2", "3", "4", "8", "16")
_FLOAT_FOR_HALF = "#define cl_khr_fp16 1\n" + "".join(
    f"#define half{n} float{n}\n#define convert_half{n} convert_float{n}\n"
    f"#define convert_short{n} convert_int{n}\n#define convert_ushort{n} convert_uint{n}\n"
    for n in _WIDTHS
)
_KINDS = (
    ("data race", "race"),
    ("Invalid read", "out of bounds"),
    ("Invalid write", "out of bounds"),
    ("Uninitialized", "uninitialised"),
)
_AT = re.compile(r"At line (\d+) \(column \d+\) of .*:\n\s*(.*)")


@dataclass(frozen=True)
class Unwritten:
    """A buffer that nothing was written to yet, such as a kernel's output.

    Attributes:
        bytes: size of the buffer; for a kernel of half, four per element.
    """

    bytes: int


@dataclass(frozen=True)
class LocalMemory:
    """A buffer in local memory.

    Attributes:
        bytes: size of the buffer.
    """

    bytes: int


Argument = NDArray[np.generic] | np.generic | Unwritten | LocalMemory


@dataclass(frozen=True)
class Finding:
    """Something that a kernel must not do.

    Attributes:
        kind: "race", "out of bounds", "uninitialised" or "other".
        message: oclgrind's words, with the address.
        line: line of the source, from 1; 0 when unknown.
        code: text of that line.
    """

    kind: str
    message: str
    line: int
    code: str


def check_kernel(
    source: str,
    kernel: str,
    arguments: Sequence[Argument],
    global_size: Sequence[int],
    local_size: Sequence[int],
    timeout: float = 600,
) -> list[Finding]:
    """Run a kernel under oclgrind and return what it must not do; nothing when it is clean.

    A kernel with half is checked with float in its place, and float16 arrays as float32.

    Args:
        source: OpenCL C that holds the kernel.
        kernel: name of the kernel.
        arguments: arrays for buffers, numpy scalars (`np.int32(3)`), `Unwritten`, `LocalMemory`.
        global_size: number of work-items in each of up to three dimensions; multiples of
            `local_size`.
        local_size: number of work-items of a work-group in each dimension.
        timeout: seconds after which oclgrind is ended.

    Raises:
        ToolError: oclgrind is missing, cannot read or run the kernel, or took too long.
    """
    command = oclgrind_command()
    if command is None:
        raise ToolError(f"oclgrind is not installed; {OCLGRIND_REMEDY}")
    prelude = _FLOAT_FOR_HALF if re.search(r"\bhalf\d*\b", source) else ""
    with tempfile.TemporaryDirectory(prefix="mbv3c-oclgrind-") as name:
        folder = Path(name)
        (folder / "kernel.cl").write_text(prelude + source)
        simulation = ["kernel.cl", kernel, _extents(global_size), _extents(local_size)]
        simulation += [_described(argument) for argument in arguments]
        (folder / "kernel.sim").write_text("\n".join(simulation) + "\n")
        log = folder / "log.txt"
        done = finish(
            [*command, *_OPTIONS, "--log", "log.txt", "kernel.sim"], timeout=timeout, folder=folder
        )
        findings = _findings(log.read_text() if log.exists() else "", prelude.count("\n"))
        if done.returncode != 0:
            lines = "\n".join(part for part in (done.last_lines(), *_messages(findings)) if part)
            raise ToolError(f"oclgrind could not run the kernel {kernel}:\n{lines}")
        return findings


def _extents(sizes: Sequence[int]) -> str:
    return " ".join(str(size) for size in (*sizes, 1, 1)[:3])


def _described(argument: Argument) -> str:
    """Return an argument in the words of a .sim file: numbers by their bits."""
    if isinstance(argument, Unwritten):
        return f"<size={argument.bytes} noinit>"
    if isinstance(argument, LocalMemory):
        return f"<size={argument.bytes} uchar>"
    array = np.ascontiguousarray(argument)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    name = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}[array.itemsize]
    return f"<size={array.nbytes} {name}>\n{' '.join(map(str, bits.tolist()))}"


def _findings(log: str, prelude: int) -> list[Finding]:
    """Read oclgrind's messages; one begins at the left margin, and its details are indented."""
    blocks = re.split(r"\n(?=\S)", log.strip())
    return [_finding(block, prelude) for block in blocks if block.strip()]


def _finding(block: str, prelude: int) -> Finding:
    message = block.splitlines()[0].strip()
    kind = next((kind for words, kind in _KINDS if words in message), "other")
    at = _AT.search(block)
    if at is None:
        return Finding(kind, message, 0, "")
    return Finding(kind, message, int(at[1]) - prelude, at[2].strip())


def _messages(findings: Sequence[Finding]) -> list[str]:
    return [finding.message for finding in findings]
