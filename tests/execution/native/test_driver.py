"""The driver within a library: it runs kernels on constants that lie in the file."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError
from mbv3c.execution.host import HostRunner, arrays, load_library
from mbv3c.execution.native.build import driver_for
from mbv3c.execution.native.layout import MAGIC, laid_out
from mbv3c.execution.runners import KernelCall
from mbv3c.execution.watching import run_watched
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.program import CONSTANT, program_of
from mbv3c.targets.cpu.backend import build
from tests.execution.native.libraries import SHAPE, build_for_vm, small
from tests.onnx_text import random
from tests.targets.cpu.networks import HOST_TARGET

X = random(*SHAPE)


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return small()


@pytest.fixture(scope="module")
def folders(lowered: Lowered, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders with a library whose kernels a driver calls, and the virtual machine."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("driver", "machine")}
    build(lowered.module, HOST_TARGET, made["driver"] / LIBRARY)
    build_for_vm(lowered, made["machine"] / LIBRARY)
    return made


def opened(folder: Path) -> relax.VirtualMachine:
    return relax.VirtualMachine(load_library(folder / LIBRARY), tvm.cpu())


def run(machine: relax.VirtualMachine) -> list[np.ndarray]:
    return arrays(machine["main"](tvm.runtime.tensor(X)))


def test_both_give_equal_bits(folders: dict[str, Path]) -> None:
    ours, theirs = (run(opened(folder)) for folder in folders.values())
    assert [one.shape for one in ours] == [SHAPE, SHAPE[:2]]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_constants_lie_in_the_file_once(folders: dict[str, Path], lowered: Lowered) -> None:
    packed = {a.tobytes() for step in lowered.plan.steps for a in step.constants.values()}
    data = (folders["driver"] / LIBRARY).read_bytes()
    assert packed
    assert all(data.count(content) == 1 for content in packed if any(content))
    begin = data.index(MAGIC)
    places = [place for place, _ in laid_out(program_of(lowered.module)).constants]
    assert all((begin + place) % 64 == 0 for place in places)


def test_kernels_get_the_constants_of_the_file(folders: dict[str, Path]) -> None:
    """They are neither copied nor moved: a byte that is changed in the file changes the result."""
    machine, seen = opened(folders["driver"]), []

    def instrument(_: Any, name: str, before: bool, __: Any, *given: Any) -> None:
        seen.extend(addresses_of(given))

    run_watched(machine, "main", instrument, [tvm.runtime.tensor(X)])
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in maps
        if LIBRARY in line
    ]
    inside = [any(first <= at < end for first, end in ranges) for at in seen]
    assert sum(inside) >= 4  # weights and bias of each convolution, before and after
    assert not all(inside)


def addresses_of(given: tuple[Any, ...]) -> list[int]:
    return [np.from_dlpack(one).ctypes.data for one in given]


@pytest.mark.parametrize("kind", ["driver", "machine"])
def test_kernels_are_stopped_at(folders: dict[str, Path], lowered: Lowered, kind: str) -> None:
    calls = [KernelCall(kernel) for kernel in lowered.kernels]
    first = next(at for at, step in enumerate(lowered.plan.steps) if step.kind == "pointwise")
    step = lowered.plan.steps[first]
    place = next(at for at, one in enumerate(step.arguments) if one is step.writes[0])
    calls[first] = KernelCall(calls[first].kernel, {}, {place: "float32"})
    made = HostRunner().run_kernels(folders[kind], X, calls)
    assert [*made[first]] == [place]
    assert made[first][place].any()
    with pytest.raises(Mbv3cError, match="calls other kernels than its manifest says"):
        HostRunner().run_kernels(folders[kind], X, [KernelCall("another")])


def test_an_instrument_may_skip_and_fail(folders: dict[str, Path]) -> None:
    machine = opened(folders["driver"])
    wanted, names = run(machine), list[str]()

    def skip(_: Any, name: str, before: bool, __: Any, *given: Any) -> int:
        names.append(name)
        return 1

    def fail(*given: Any) -> None:
        raise ValueError("not this one")

    x = tvm.runtime.tensor(X)
    run_watched(machine, "main", skip, [x])
    assert len(names) == len(set(names)) + 1 > 2  # each call once; one kernel is called twice
    with pytest.raises(ValueError, match="not this one"):
        run_watched(machine, "main", fail, [x])
    for one, other in zip(run(machine), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="no function has the name"):
        run_watched(machine, "main", "mbv3c.nothing", [x])


def test_the_driver_refuses_what_is_no_call_of_its_program(folders: dict[str, Path]) -> None:
    library = load_library(folders["driver"] / LIBRARY)
    run_program: Callable[..., Any] = library.get_function("mbv3c_run", query_imports=True)
    x = tvm.runtime.tensor(X)
    for given, said in [((), "number"), ((7, 0), "number"), ((0, 0, x), "another number")]:
        with pytest.raises(ValueError, match=said):
            run_program(*given)
    with pytest.raises(ValueError, match="arena"):
        run_program(0, 0, x, x, x, 3)
    with pytest.raises(ValueError, match="an instrument is a function"):
        run_program(0, x, x, x, x, x)


def test_threads_share_a_library(folders: dict[str, Path]) -> None:
    infer, found = HostRunner().opened(folders["driver"]), list[Any]()
    threads = [threading.Thread(target=lambda: found.append(infer(X))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for outputs in found[1:]:
        for one, other in zip(outputs, found[0], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_function_reads_what_its_module_says(lowered: Lowered) -> None:
    program = program_of(lowered.module)
    (function,) = program.functions
    assert function.name == "main"
    assert [call.kernel for call in function.calls] == [*lowered.kernels]
    assert function.arena_bytes == lowered.arena.bytes
    constants = sum(
        tensor.place == CONSTANT for call in function.calls for tensor in call.arguments
    )
    assert (
        constants
        == len(program.constants)
        == sum(len(step.constants) for step in lowered.plan.steps)
    )


def test_the_driver_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "cache"))
    first = driver_for(HOST_TARGET.triple, tmp_path)
    made = first.stat().st_mtime_ns
    assert first.is_relative_to(tmp_path / "cache")
    assert driver_for(HOST_TARGET.triple, tmp_path) == first
    assert first.stat().st_mtime_ns == made
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MBV3C_CACHE", str(tmp_path / "file"))
    assert driver_for(HOST_TARGET.triple, tmp_path).parent == tmp_path
