"""Build a C library: kernels, weights and driver as one object in an archive, and its header."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm

from mbv3c.bundle import Golden
from mbv3c.c_library.archive import Measured, measured_object
from mbv3c.c_library.bounds import with_bounds
from mbv3c.c_library.driver import Constants, calls_of_object, constant_block, driver
from mbv3c.c_library.golden import VECTORS, write_vectors
from mbv3c.c_library.memory import FlatArena, plan_flat_arena
from mbv3c.c_library.names import FOLDER, archive_of, header_of
from mbv3c.c_library.package import cmake_package, pkg_config
from mbv3c.c_library.raw_pointers import RawKernels, raw_kernels
from mbv3c.c_library.record import CLibraryRecord, CLibraryRequest
from mbv3c.c_library.source import (
    Interface,
    about,
    constants_of,
    header,
    ports_of,
)
from mbv3c.c_library.wrapper import cpp_header
from mbv3c.errors import ToolError
from mbv3c.execution.features import features_of
from mbv3c.execution.link import is_armv7, run_zig, zig_machine
from mbv3c.lowering.lower import Lowered
from mbv3c.scratch import scratch_folder

# What TVM's code generator adds to every module: they would clash with the compiler's own.
_HALVES = ("__extendhfsf2", "__truncsfhf2")
# It would be as long as the code.
_FOR_DEBUGGERS = (
    r"^(?:!llvm\.dbg\.cu = |\s*#dbg_|\s*(?:tail )?call void @llvm\.dbg\.).*\n|,? !dbg !\d+"
)
# LLVM's optimisation is done. What comes after it takes `vmla`, which multiplies by a lane, for a
# product and a sum only in functions that are to be small: it rounds twice where TVM lets LLVM
# round once. `vfma` has no lanes, and Cortex-A9 has no `vfma`.
_ATTRIBUTES = r"^(attributes #\d+ = \{ )(?=.*\bnounwind\b.*\"target-cpu\")"
DRIVER_FLAGS = (
    *("-std=c11", "-O2", "-g0", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-sanitize=all", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)


@dataclass(frozen=True)
class Designed:
    """A C library that is not compiled yet.

    Attributes:
        raw: its kernels.
        arena: where values lie in the memory that the caller gives.
        constants: its weights.
        interface: what its header says.
        shared_loops: the number of loops that the application's threads may share.
    """

    raw: RawKernels
    arena: FlatArena
    constants: Constants
    interface: Interface
    shared_loops: int

    def write_headers(self, root: Path) -> None:
        """Write what applications include into the folder of the library."""
        prefix, include = self.interface.prefix, root / "include"
        include.mkdir(parents=True)
        (include / f"{prefix}.h").write_text(header(self.interface))
        (include / f"{prefix}.hpp").write_text(cpp_header(self.interface))

    def write_others(self, golden: Golden, needs: Sequence[str], root: Path) -> None:
        """Write test vectors, and what build systems need, into the folder of the library."""
        prefix, lib = self.interface.prefix, root / "lib"
        write_vectors(self.interface, golden, root / VECTORS)
        cmake_package(lib / "cmake" / prefix, prefix)
        pkg_config(lib / "pkgconfig", self.interface, needs)

    def record(self, measured: Measured) -> CLibraryRecord:
        """Return what a manifest says of the library."""
        prefix = self.interface.prefix
        return CLibraryRecord(
            prefix,
            header_of(prefix),
            archive_of(prefix),
            measured.code_bytes,
            measured.constant_bytes,
            self.arena.bytes,
            self.arena.lower_bound,
            self.interface.alignment,
            self.shared_loops,
            measured.needs,
        )


def design(
    lowered: Lowered, target: tvm.target.Target, request: CLibraryRequest, alignment: int = 64
) -> Designed:
    """Say what the C library of a lowered network is like.

    Args:
        lowered: the network.
        target: the processor, for TVM.
        request: what the library is for.
        alignment: of the arena and of weights, in bytes.
    """
    raw = raw_kernels(lowered.module, target, request.prefix)
    used = [raw.kernels[name] for name in lowered.kernels]
    arena = plan_flat_arena(lowered.plan, [kernel.scratch for kernel in used], alignment)
    manifest = request.manifest
    names = [[record.name for record in side] for side in (manifest.inputs, manifest.outputs)]
    inputs, outputs = ports_of(lowered, names)
    shared = sum(segment.turns is not None for kernel in used for segment in kernel.segments)
    interface = Interface(
        request.prefix,
        about(manifest),
        constants_of(request),
        inputs,
        outputs,
        arena.bytes,
        alignment,
        bool(shared),
        request.labels,
        features_of(target),
    )
    return Designed(raw, arena, constant_block(lowered, alignment), interface, shared)


def build_c_library(
    lowered: Lowered,
    target: tvm.target.Target,
    triple: str,
    request: CLibraryRequest,
    folder: Path,
    alignment: int = 64,
) -> CLibraryRecord:
    """Build a lowered network into `folder`, with what build systems need to find it.

    Args:
        lowered: the network.
        target: the processor, for TVM.
        triple: the processor, as LLVM's target triple.
        request: what the library is for.
        folder: the folder of the bundle.
        alignment: of the arena and of weights, in bytes.

    Raises:
        ToolError: a kernel calls TVM's runtime, or the compiler failed.
    """
    made, prefix, root = (
        design(lowered, target, request, alignment),
        request.prefix,
        folder / FOLDER,
    )
    made.write_headers(root)
    archive = root / "lib" / f"lib{prefix}.a"
    archive.parent.mkdir()
    with scratch_folder("c-library") as place:
        write_sources(made, lowered, target, place)
        machine = zig_machine(triple, str(target.attrs["mcpu"]))
        _compile(place, root / "include", machine, archive)
        sizes = measured_object(place / "whole.o")
    made.write_others(request.golden, sizes.needs, root)
    return made.record(sizes)


def write_sources(
    made: Designed, lowered: Lowered, target: tvm.target.Target, place: Path
) -> None:
    """Write driver.c, weights.S, which includes PREFIX_weights.bin, and kernels.o into a folder.

    Raises:
        ToolError: a kernel calls TVM's runtime.
    """
    own = made.interface
    calls = calls_of_object(own, lowered, made.raw.kernels, made.constants)
    (place / "driver.c").write_text(driver(own, lowered, made.raw.kernels, made.arena, calls))
    (place / f"{own.prefix}_weights.bin").write_bytes(made.constants.data)
    (place / "weights.S").write_text(_weights(own.prefix, own.alignment))
    _generate(made.raw.module, target, place / "kernels.o")


def _weights(prefix: str, alignment: int) -> str:
    """Return assembly that puts the weights among what is only read."""
    name = f"{prefix}_weights"
    return "\n".join(
        [
            f'.section .rodata.{name},"a",%progbits',
            f".balign {alignment}",
            f".globl {name}",
            f".hidden {name}",
            f"{name}:",
            f'.incbin "{name}.bin"',
            ".byte 0",
            '.section .note.GNU-stack,"",%progbits',
            "",
        ]
    )


def _generate(module: tvm.IRModule, target: tvm.target.Target, output: Path) -> None:
    """Let LLVM write an object in which only this library sees the kernels.

    Raises:
        ToolError: a kernel calls TVM's runtime.
    """
    try:
        text = tvm.get_global_func("target.build.llvm")(module, target).inspect_source("ll")
    except (tvm.error.InternalError, RuntimeError) as error:
        raise ToolError(f"a kernel needs TVM's runtime: {error}") from error
    text = text.replace("define dllexport void @", "define hidden void @")
    for name in _HALVES:
        text = re.sub(rf"^define .*?(\w+ @{name}\()", r"define internal \1", text, flags=re.M)
    text = re.sub(r"^@llvm\.global_ctors = .*\n", "", text, flags=re.M)
    text = re.sub(_FOR_DEBUGGERS, "", text, flags=re.M)
    if is_armv7(str(target.attrs["mtriple"])):
        text = re.sub(_ATTRIBUTES, r"\1minsize optsize ", text, flags=re.M)
        text = with_bounds(text)
    source = output.with_suffix(".ll")
    source.write_text(text)
    loaded = tvm.get_global_func("ffi.Module.load_from_file.ll")(str(source), "ll")
    loaded.write_to_file(str(output), "o")


def _compile(place: Path, include: Path, machine: Sequence[str], archive: Path) -> None:
    """Compile the driver and the weights, and put everything into one object of an archive."""
    for source, flags in (("driver.c", DRIVER_FLAGS), ("weights.S", ("-g0", "-I", str(place)))):
        made = str(place / source[: source.index(".")]) + ".o"
        run_zig(
            ["cc", "-c", *machine, *flags, "-I", str(include), "-o", made, str(place / source)],
            f"compiling {source}",
        )
    parts = [place / f"{name}.o" for name in ("driver", "kernels", "weights")]
    write_archive(parts, machine, place, archive)


def write_archive(
    parts: Sequence[Path],
    machine: Sequence[str],
    place: Path,
    archive: Path,
    flags: Sequence[str] = (),
) -> None:
    """Join objects, and sources that are compiled by `flags`, to one object of an archive.

    The object stays in `place`, as whole.o.
    """
    whole = str(place / "whole.o")
    joining = ["cc", "-r", "-nostdlib", "-Wl,--strip-debug", *machine, *flags, "-o", whole]
    run_zig([*joining, *map(str, parts)], "joining the objects")
    named = place / archive.name.replace(".a", ".o").removeprefix("lib")
    (place / "whole.o").rename(named)
    # In a path that ar writes to, it takes % for a place where digits belong.
    written = ["ar", "rcsD", archive.name, str(named.absolute())]
    run_zig(written, f"writing {archive.name}", archive.parent)
    named.rename(place / "whole.o")
