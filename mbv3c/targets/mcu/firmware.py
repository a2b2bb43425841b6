"""A program for a board around a C library: compiled and linked without a cross toolchain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from elftools.elf.elffile import ELFFile

from mbv3c.c_library.on_files import main_source
from mbv3c.c_library.run import CLibrary
from mbv3c.execution.link import run_zig, zig_machine
from mbv3c.targets.mcu.devices import McuTarget

STACK_BYTES = 4096  # of which the emulated program says that it is enough
HEADER = "bare_metal.h"  # what programs include
_SOURCES = Path(__file__).parent / "bare_metal"
_FLAGS = (
    *("-std=c11", "-O2", "-g0", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-ffunction-sections", "-fno-sanitize=all", "-fno-unwind-tables"),
    "-fno-asynchronous-unwind-tables",
)


@dataclass(frozen=True)
class ImageSizes:
    """What a program takes, read from the sections that the linker placed.

    Attributes:
        flash_bytes: code, constants and what is copied at the start.
        sram_bytes: what is written: arena, inputs, outputs, stack.
    """

    flash_bytes: int
    sram_bytes: int


def link_program(
    library: CLibrary, target: McuTarget, source: str, folder: Path, needs: Sequence[str]
) -> Path:
    """Compile a program and link it with a library for the board that emulates a target.

    Args:
        library: the library.
        target: the core.
        source: the C of `main`.
        folder: where everything is put.
        needs: functions that the library needs; zig's own runtime has them.

    Raises:
        ToolError: the compiler or the linker fails.
    """
    board, program = target.board, folder / "program.elf"
    machine = zig_machine(target.triple, target.cpu)
    (folder / "main.c").write_text(source)
    (folder / "bare_metal.c").write_bytes((_SOURCES / "bare_metal.c").read_bytes())
    (folder / HEADER).write_bytes((_SOURCES / HEADER).read_bytes())
    (folder / library.header.name).write_bytes(library.header.read_bytes())
    places = Template((_SOURCES / "program.ld").read_text())
    (folder / "program.ld").write_text(
        places.substitute(
            code=hex(board.code),
            constants=hex(board.constants),
            data=hex(board.data),
            stack=STACK_BYTES,
        )
    )
    doing = f"linking a program with {library.archive.name}"
    objects = []
    for name in ("main", "bare_metal"):
        made = str(folder / f"{name}.o")
        run_zig(
            ["cc", "-c", *machine, *_FLAGS, "-I", str(folder), "-o", made, f"{name}.c"],
            doing,
            folder,
        )
        objects.append(made)
    alone = () if needs else ("-nostdlib",)
    script = f"-Wl,-T,{folder / 'program.ld'}"
    run_zig(
        [
            *("cc", *machine, *alone, script, "-Wl,--gc-sections", "-Wl,--build-id=none"),
            *("-o", str(program), *objects, str(library.archive.absolute())),
        ],
        doing,
        folder,
    )
    return program


def image_sizes(
    library: CLibrary, target: McuTarget, folder: Path, needs: Sequence[str]
) -> ImageSizes:
    """Link a program that only runs a library, in a folder, and return what it takes.

    Raises:
        ToolError: the compiler or the linker fails.
    """
    return sizes_of(link_program(library, target, main_source(library, HEADER), folder, needs))


_WRITABLE, _ALLOCATED = 1, 2  # sh_flags


def sizes_of(program: Path) -> ImageSizes:
    """Read from a linked program what it takes of each memory."""
    flash = sram = 0
    with program.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if not section["sh_flags"] & _ALLOCATED:
                continue
            empty = section["sh_type"] == "SHT_NOBITS"
            if not empty:
                flash += section["sh_size"]
            if empty or section["sh_flags"] & _WRITABLE:
                sram += section["sh_size"]
    return ImageSizes(flash, sram)
