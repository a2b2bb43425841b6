"""Kernels as objects. Each is compiled by itself, and only once: the user's cache keeps it.

Compiling is most of what a library takes, and networks share kernels. The name of an entry is the
sha256 of all that decides about the object: the kernel as TensorIR (64 bits: TVM's hash of its
structure), the processor, the versions of TVM and LLVM, and the source of the passes that follow.
An object is the same from the cache and compiled anew, so a library is, too.

`verify` takes nothing from there: it compiles what it compares with (`compiled_anew`).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from inspect import getsource
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from mbv3c.errors import ToolError
from mbv3c.execution import elf_symbols
from mbv3c.execution.cache import cache_root
from mbv3c.execution.kept import Kept
from mbv3c.lowering import tir_pipeline, unchecked
from mbv3c.lowering.unchecked import is_trusted
from mbv3c.version import __version__

FOLDER = "objects"
MOST_BYTES = 256 << 20
_NAME = "mbv3c_kernel"  # what a kernel is called in the cache
_DECIDING = (tir_pipeline, unchecked, elf_symbols)
_anew = ContextVar("anew", default=False)


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Compile every kernel meanwhile, also those that the cache has."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)


def kernel_objects(
    kernels: Mapping[str, PrimFunc], target: tvm.target.Target, folder: Path
) -> list[Path]:
    """Write the object of every kernel into a folder.

    Args:
        kernels: the kernels by the names that a library calls them by.
        target: the processor, with its triple.
        folder: an empty folder.
    """
    kept, recipe, paths = None if _anew.get() else _kept(), _recipe(target), []
    added = False
    for number, (name, function) in enumerate(kernels.items()):
        own = _NAME if _may_be_renamed(function, target) else name
        key = _key(function, own, recipe)
        data = kept.read(key) if kept else None
        if data is None:
            data = _compiled(function, own, target, folder)
            if kept:
                kept.write(key, data)
                added = True
        path = folder / f"kernel-{number}.o"
        path.write_bytes(data if own == name else elf_symbols.renamed(data, own, name))
        paths.append(path)
    if kept and added:
        kept.shrink()
    return paths


def _kept() -> Kept | None:
    """Return the cache's folder of objects; None for a user without a home."""
    try:
        return Kept(cache_root() / FOLDER, MOST_BYTES)
    except ToolError:
        return None


def _may_be_renamed(function: PrimFunc, target: tvm.target.Target) -> bool:
    """Say whether only the symbols of a kernel's object hold its name.

    Messages about wrong arguments hold it, too. Apple's objects are no ELF.
    """
    return is_trusted(function) and "-apple-" not in str(target.attrs["mtriple"])


def _recipe(target: tvm.target.Target) -> Sequence[str]:
    """Return what decides about objects beside the kernels."""
    packages = [f"{name} {metadata.version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    llvm = f"LLVM {tvm.target.codegen.llvm_version_major()}"
    sources = [getsource(module) for module in _DECIDING]
    config = tvm.transform.PassContext.current().config
    settings = sorted(f"{key}={value}" for key, value in config.items())
    return [__version__, *packages, llvm, *sources, getsource(_compiled), str(target), *settings]


def _key(function: PrimFunc, name: str, recipe: Sequence[str]) -> str:
    """Return the name of a kernel's entry.

    TVM's hash leaves names out. Messages about wrong arguments hold them, where `name` is the
    kernel's own: see `_may_be_renamed`.
    """
    arguments = [
        [
            "" if name == _NAME else str(parameter.name),
            str(parameter.dtype),
            [int(extent) for extent in parameter.shape],
        ]
        for parameter in function.params
    ]
    parts = [name, f"{structural_hash(function.without_attr('global_symbol')):x}", arguments]
    return hashlib.sha256(json.dumps([*parts, *recipe]).encode()).hexdigest()


def _compiled(function: PrimFunc, name: str, target: tvm.target.Target, folder: Path) -> bytes:
    """Have LLVM compile a kernel to an object."""
    module = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    built = tvm.tirx.build(module, target, pipeline=tir_pipeline.register_tir_pipeline())
    with TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "kernel.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes()
