"""Kernels come from the cache as they come from the compiler, and `verify` compiles its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tvm
from tvm.tirx import PrimFunc

from mbv3c.execution.elf_symbols import renamed
from mbv3c.execution.emulator.counting import functions
from mbv3c.execution.link import run_zig
from mbv3c.execution.native import kernels
from mbv3c.execution.native.kernels import FOLDER, compiled_anew, kernel_objects
from mbv3c.lowering.program import kernels_of
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.unchecked import MarkTrusted, without_checks
from mbv3c.targets.cpu.backend import build
from mbv3c.targets.library.target import tvm_target
from tests.execution.native.libraries import small
from tests.targets.cpu.networks import HOST_TARGET

TARGET = tvm_target(HOST_TARGET)
_KEYS = """
import json
from mbv3c.imports import without_torch
without_torch()
from tests.execution.native.test_kernels import keys
print(json.dumps(keys()))
"""


def marked() -> dict[str, PrimFunc]:
    return kernels_of(MarkTrusted()(small().module))


def keys() -> list[str]:
    """Return the names of the entries of the small network's kernels."""
    recipe = kernels._recipe(TARGET)
    return [kernels._key(function, "k", recipe) for function in marked().values()]


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where objects are kept meanwhile."""
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return a list that gets the name of every kernel that is compiled."""
    names: list[str] = []
    compile_one = kernels._compiled

    def noted(function: PrimFunc, name: str, target: tvm.target.Target, folder: Path) -> bytes:
        names.append(name)
        return compile_one(function, name, target, folder)

    monkeypatch.setattr(kernels, "_compiled", noted)
    yield names


def test_libraries_are_equal_with_and_without_the_cache(
    entries: Path, compiled: list[str], tmp_path: Path
) -> None:
    lowered, count = small(), len(marked())
    library = tmp_path / "model.so"

    def built() -> bytes:
        build(lowered.module, HOST_TARGET, library)
        return library.read_bytes()

    with compiled_anew():
        anew = built()
    assert not entries.exists()
    assert len(compiled) == count
    assert built() == anew
    assert len(compiled) == 2 * count
    assert len(list(entries.iterdir())) == count
    damaged = min(entries.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert built() == anew
    assert len(compiled) == 2 * count + 1  # all others came from the cache


def test_what_verify_builds_takes_nothing_from_the_cache(
    entries: Path, compiled: list[str], tmp_path: Path
) -> None:
    given = marked()
    before = [path.read_bytes() for path in kernel_objects(given, TARGET, tmp_path)]
    cache = kernels.Kept(entries, 1 << 20)
    for place in entries.iterdir():
        cache.write(place.name, b"poison")
    with compiled_anew():
        after = [path.read_bytes() for path in kernel_objects(given, TARGET, tmp_path)]
    assert after == before
    assert len(compiled) == 2 * len(given)
    assert all(cache.read(place.name) == b"poison" for place in entries.iterdir())


def test_what_decides_about_an_object_is_in_its_name(entries: Path, tmp_path: Path) -> None:
    given = marked()
    other = tvm.target.Target({**json.loads(str(TARGET)), "mcpu": "skylake-avx512"})
    counts = []

    def write(functions: dict[str, PrimFunc], target: tvm.target.Target) -> None:
        kernel_objects(functions, target, tmp_path)
        counts.append(len(list(entries.iterdir())))

    write(given, TARGET)
    write(given, other)
    with without_checks():
        write(given, TARGET)
    write(kernels_of(small().module), TARGET)  # with checks of all arguments
    every, trusted = len(given), sum(map(kernels.is_trusted, given.values()))
    assert 0 < trusted < every
    assert counts == [every, 2 * every, 3 * every, 3 * every + trusted]
    write(dict(zip(reversed(given), given.values(), strict=True)), TARGET)
    assert counts[-1] - counts[-2] == every - trusted  # whose messages hold their names


def test_names_of_arguments_count_where_messages_hold_them() -> None:
    """A message about a wrong argument names it: two kernels must not share an object then."""

    def copying(name: str) -> PrimFunc:
        def body() -> None:
            x, y = emit.argument(name, (4,), "int8"), emit.argument("y", (4,), "int8")
            emit.store(y, emit.load(x, 0, lanes=4), 0, lanes=4)

        return emit.build_kernel("copying", body)

    recipe = kernels._recipe(TARGET)
    one, other = copying("image"), copying("mask")
    assert kernels._key(one, "copying", recipe) != kernels._key(other, "copying", recipe)
    assert kernels._key(one, kernels._NAME, recipe) == kernels._key(other, kernels._NAME, recipe)


def test_another_process_finds_what_this_one_has_kept() -> None:
    command = [sys.executable, "-c", _KEYS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout) == keys()
    assert len(set(keys())) == len(keys())


def test_symbols_get_other_names(entries: Path, tmp_path: Path) -> None:
    path, *_ = kernel_objects(marked(), TARGET, tmp_path)
    (name, *_) = marked()
    (tmp_path / "other.o").write_bytes(renamed(path.read_bytes(), name, "another_name"))

    def names(kernel: Path) -> list[str]:
        library = kernel.with_suffix(".so")
        link = ["cc", "-target", "x86_64-linux-gnu", "-nostdlib", "-shared"]
        run_zig([*link, "-o", library.name, kernel.name], "linking", tmp_path)
        return sorted(functions(library).names)

    before, after = names(path), names(tmp_path / "other.o")
    assert f"__tvm_ffi_{name}" in before
    assert after == sorted(each.replace(name, "another_name") for each in before)
    with pytest.raises(ValueError, match="ELF"):
        renamed(b"no object" + path.read_bytes(), name, "another_name")
