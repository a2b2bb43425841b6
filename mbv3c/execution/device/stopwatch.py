"""The library that times every call of a model on a device; see stopwatch.c beside this."""

import struct
import subprocess
import sys
from pathlib import Path

from tvm_ffi import libinfo

from mbv3c.errors import ToolError
from mbv3c.targets.cpu import zig_triple
from mbv3c.targets.table import Target

INSTRUMENT = "mbv3c.stopwatch"  # what `begin` registers, for the virtual machine
_SOURCE = Path(__file__).with_suffix(".c")
_ENTRY = struct.Struct("<QB")  # nanoseconds, and the length of the name that follows

Call = tuple[str, float]


def build_stopwatch(target: Target, output: Path) -> None:
    """Compile and link it for a target's processor and system: 5 kB, and no C library.

    Raises:
        ToolError: the compiler failed.
    """
    headers = (libinfo.find_include_path(), libinfo.find_dlpack_include_path())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", zig_triple(target.triple)),
            *("-O2", "-std=c11", "-fPIC", "-nostdlib", "-shared", "-s", "-fno-sanitize=all"),
            *("-Wl,--build-id=none", "-Wl,--allow-shlib-undefined"),
            *(f"-I{folder}" for folder in headers),
            *(str(_SOURCE), "-o", str(output)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ToolError(
            f"compiling {_SOURCE.name} for {target.name} failed with status {done.returncode} "
            f"({lines[-1]}); is the disk full, or the package ziglang missing? `mbv3c doctor` "
            "checks"
        )


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
