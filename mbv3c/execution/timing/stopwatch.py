"""The library that times every call of a model on a device; see stopwatch.c beside this."""

import platform
import struct
from importlib.metadata import version
from pathlib import Path

from tvm_ffi import libinfo

from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root, digest_of, provide_once
from mbv3c.execution.link import run_zig, zig_triple

INSTRUMENT = "mbv3c.stopwatch"  # what `begin` registers, for the virtual machine
_SOURCE = Path(__file__).with_suffix(".c")
_ENTRY = struct.Struct("<QB")  # nanoseconds, and the length of the name that follows

Call = tuple[str, float]


def build_stopwatch(triple: str, output: Path) -> None:
    """Compile and link it for the processor and system of a triple: 5 kB, and no C library.

    Raises:
        ToolError: the compiler failed.
    """
    headers = (libinfo.find_include_path(), libinfo.find_dlpack_include_path())
    command = [
        *("cc", "-target", zig_triple(triple)),
        *("-O2", "-std=c11", "-fPIC", "-nostdlib", "-shared", "-s", "-fno-sanitize=all"),
        *("-Wl,--build-id=none", "-Wl,--allow-shlib-undefined"),
        *(f"-I{folder}" for folder in headers),
        *(str(_SOURCE), "-o", str(output)),
    ]
    run_zig(command, f"compiling {_SOURCE.name} for {triple}")


def stopwatch_here() -> Path:
    """Return the library for this machine, with Linux; it is built once, and kept in the cache.

    Raises:
        ToolError: the compiler failed, or the cache folder cannot be written to.
    """
    made_from = _SOURCE.read_bytes() + version("apache-tvm-ffi").encode()
    library = cache_root() / f"stopwatch-{digest_of(made_from)}" / "built" / "stopwatch.so"
    here = f"{platform.machine()}-linux-gnu"
    provide_once(library.parent, lambda place: build_stopwatch(here, place / library.name))
    return library


def by_rounds(calls: list[Call], rounds: int) -> list[list[Call]]:
    """Cut the calls of some equal rounds apart.

    Raises:
        ToolError: they are not equal.
    """
    each = len(calls) // rounds
    if not each or len(calls) % rounds:
        raise ToolError(f"{len(calls)} calls in {rounds} runs: please report this")
    return [calls[at : at + each] for at in range(0, len(calls), each)]


def read_times(measured: bytes) -> list[Call]:
    """Read what the library's `times` returns: name and microseconds of every call, in order.

    Raises:
        ToolError: it is cut short.
    """
    calls: list[Call] = []
    at = 0
    try:
        while at < len(measured):
            nanoseconds, length = _ENTRY.unpack_from(measured, at)
            at += _ENTRY.size
            name = measured[at : at + length].decode()
            at += length
            calls.append((name, nanoseconds / 1e3))
    except (struct.error, UnicodeDecodeError) as error:
        raise ToolError(f"the device's times are damaged at byte {at} ({error})") from error
    if at != len(measured):
        raise ToolError("the device's times are cut short; please report this")
    return calls
