"""The objects that a library is linked with beside its kernels: the driver, and its program."""

from pathlib import Path

import tvm
from tvm_ffi import libinfo

from mbv3c.errors import ToolError
from mbv3c.execution.cache import cache_root, digest_of, provide_once
from mbv3c.execution.link import run_zig, zig_triple
from mbv3c.execution.native.layout import Laid, laid_out
from mbv3c.lowering.arena import ALIGNMENT
from mbv3c.lowering.program import Program
from mbv3c.version import __version__

_SOURCE = Path(__file__).with_name("driver.c")
_OBJECT = "driver.o"
_FLAGS = (
    *("-std=c11", "-O2", "-g0", "-fPIC", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-sanitize=all", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)
_PREFIX = "__tvm_ffi_"  # of every kernel's symbol


def objects_for(program: Program, triple: str, folder: Path) -> list[Path]:
    """Write the objects for a program into a folder, or take them from the cache.

    Args:
        program: the program.
        triple: the processor and the system, as LLVM's target triple.
        folder: an empty folder.

    Raises:
        ToolError: the compiler failed.
    """
    return [driver_for(triple, folder), _program_object(laid_out(program), triple, folder)]


def driver_for(triple: str, folder: Path) -> Path:
    """Return the driver for a triple: compiled once, and kept in the cache if one can be written.

    Raises:
        ToolError: the compiler failed.
    """
    made_from = _SOURCE.read_bytes() + " ".join((*_FLAGS, triple, __version__)).encode()
    kept = cache_root() / f"driver-{digest_of(made_from)}" / "built"
    try:
        provide_once(kept, lambda place: _compile(triple, place / _OBJECT))
    except (ToolError, OSError):
        _compile(triple, folder / _OBJECT)
        return folder / _OBJECT
    return kept / _OBJECT


def _compile(triple: str, output: Path) -> None:
    headers = (libinfo.find_include_path(), libinfo.find_dlpack_include_path())
    included = [f"-I{folder}" for folder in headers]
    command = ["cc", "-c", "-target", zig_triple(triple), *_FLAGS, *included]
    run_zig([*command, str(_SOURCE), "-o", str(output)], f"compiling {_SOURCE.name} for {triple}")


def _program_object(laid: Laid, triple: str, folder: Path) -> Path:
    """Have LLVM put a program into an object, with the addresses of its kernels."""
    data, source, output = (folder / f"program.{kind}" for kind in ("bin", "ll", "o"))
    with data.open("wb") as file:
        laid.write(file)
    source.write_text(_text(laid, triple, data))
    loaded = tvm.get_global_func("ffi.Module.load_from_file.ll")(str(source), "ll")
    loaded.write_to_file(str(output), "o")
    return output


def _text(laid: Laid, triple: str, data: Path) -> str:
    """Return LLVM's language for the program and the table of its kernels."""
    apple = "-apple-" in triple
    name = "_mbv3c_program" if apple else "mbv3c_program"
    lines = [
        ".section __TEXT,__const" if apple else '.section .rodata.mbv3c,"a",%progbits',
        f".balign {ALIGNMENT}",
        f".globl {name}",
        f".private_extern {name}" if apple else f".hidden {name}",
        f"{name}:",
        f'.incbin "{data}"',
    ]
    symbols = [f"@{_PREFIX}{kernel}" for kernel in laid.kernels]
    kernels = ", ".join(f"ptr {symbol}" for symbol in symbols)
    return "\n".join(
        [
            f'target triple = "{triple}"',
            *(f'module asm "{_quoted(line)}"' for line in lines),
            f"@mbv3c_kernels = hidden constant [{len(symbols)} x ptr] [{kernels}]",
            *(f"declare i32 {symbol}(ptr, ptr, i32, ptr)" for symbol in symbols),
            "",
        ]
    )


def _quoted(text: str) -> str:
    """Write a line of assembly as a string of LLVM's language."""
    return "".join(
        chr(byte) if byte not in b'"\\' and 32 <= byte < 127 else f"\\{byte:02X}"
        for byte in text.encode()
    )
