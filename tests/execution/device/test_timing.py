"""The stopwatch on real servers: ours and TVM's own."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, rpc
from tvm.script import tirx as T  # noqa: N812

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.errors import ToolError
from mbv3c.execution.device.alarms import Steps
from mbv3c.execution.device.timing import time_models
from mbv3c.execution.timing.stopwatch import build_stopwatch, read_times
from mbv3c.targets.cpu.devices import HOST_CPU
from mbv3c.targets.library.target import resolve
from tests.execution.device import libraries
from tests.execution.device.serving import HOST, Served

ROUNDS = 5
SLOW = 20_000  # sines, to be seen beside a copy of six numbers


def _side(folder: Path) -> Path:
    (folder / GOLDEN_INPUT).parent.mkdir(exist_ok=True)
    np.save(folder / GOLDEN_INPUT, libraries.X)
    return folder


@pytest.fixture(scope="module")
def stopwatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stopwatch") / "stopwatch.so"
    build_stopwatch(resolve(HOST_CPU).triple, path)
    return path


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a model of a quick kernel, whose name is short, and a slow one."""

    @T.prim_func
    def quick(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "quick", "tirx.noalias": True})
        x = T.match_buffer(a, (2, 3), "float32")
        y = T.match_buffer(b, (2, 3), "float32")
        for i, j in T.grid(2, 3):
            y[i, j] = x[i, j]

    @T.prim_func
    def slow_kernel(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "slow_kernel", "tirx.noalias": True})
        x = T.match_buffer(a, (2, 3), "float32")
        y = T.match_buffer(b, (2, 3), "float32")
        for i, j in T.grid(2, 3):
            y[i, j] = x[i, j]
        for _ in T.serial(SLOW):
            y[0, 0] = T.sin(y[0, 0] + T.float32(1.5))

    builder = relax.BlockBuilder()
    names = [
        builder.add_func(one, name)
        for one, name in ((quick, "quick"), (slow_kernel, "slow_kernel"))
    ]
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        made = [
            builder.emit(relax.call_tir(name, [x], relax.TensorType((2, 3), "float32")))
            for name in (*names, names[0])
        ]
        builder.emit_func_output(made)
    folder = tmp_path_factory.mktemp("unequal")
    tvm.compile(builder.get(), target="llvm").export_library(str(folder / LIBRARY))
    return _side(folder)


def _asked(sides: dict[str, Path], proof: Path, stopwatch: Path, **what: Any) -> dict[str, Any]:
    return {
        "gpu": False,
        "seconds": 20.0,
        "proof": str(proof),
        "stopwatch": str(stopwatch),
        "sides": {name: str(side) for name, side in sides.items()},
        "blocks": 3,
        "runs": 4,
        **what,
    }


@pytest.fixture(params=["ours", "tvm"])
def port(request: pytest.FixtureRequest) -> int:
    if request.param == "ours":
        return int(request.getfixturevalue("device").port)
    return int(request.getfixturevalue("stock"))


def test_every_call_is_timed(
    port: int, unequal: Path, network: Path, stopwatch: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path)
    asked = _asked({"it": unequal}, _side(network), stopwatch, contest=ROUNDS)
    found = time_models(asked, rpc.connect(HOST, port), tmp_path, steps)
    assert steps.proven
    assert len(found["rounds"]) == ROUNDS
    for calls in found["rounds"]:
        ours = [(name, us) for name, us in calls if not name.startswith("vm.")]
        assert [name for name, _ in ours] == ["quick", "slow_kernel", "quick"]
        quick, slow, again = (us for _, us in ours)
        assert slow > 10 * max(quick, again)
        assert slow < 1e6
    outputs = [np.load(file) for file in found["outputs"]]
    assert len(outputs) == 3
    np.testing.assert_array_equal(outputs[0], libraries.X)
    np.testing.assert_array_equal(outputs[1][1], libraries.X[1])


def test_wholes_take_turns(
    device: Served, unequal: Path, network: Path, stopwatch: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path)
    quick = _side(network)
    asked = _asked({"before": unequal, "after": quick}, quick, stopwatch, turns="wholes")
    found = time_models(asked, rpc.connect(HOST, device.port), tmp_path, steps)["blocks"]
    assert {name: [len(one) for one in blocks] for name, blocks in found.items()} == {
        "before": [4, 4, 4],
        "after": [4, 4, 4],
    }
    for slow, fast in zip(found["before"], found["after"], strict=True):
        assert np.median(slow) > 5 * np.median(fast)


def test_calls_of_wholes_take_turns(
    port: int, unequal: Path, network: Path, stopwatch: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path)
    asked = _asked({"before": unequal, "after": unequal}, _side(network), stopwatch, turns="calls")
    found = time_models(asked, rpc.connect(HOST, port), tmp_path, steps)["blocks"]
    for blocks in (found["before"], found["after"]):
        assert [len(block) for block in blocks] == [4, 4, 4]
        for run in (run for block in blocks for run in block):
            ours = [(name, us) for name, us in run if not name.startswith("vm.")]
            assert [name for name, _ in ours] == ["quick", "slow_kernel", "quick"]
            assert ours[1][1] > 10 * ours[0][1]


def test_what_was_uploaded_is_removed(
    stock: int, network: Path, stopwatch: Path, tmp_path: Path
) -> None:
    proof = _side(network)
    remote = rpc.connect(HOST, stock)
    removed = []
    steps = Steps(tmp_path)
    run = steps.run

    def noted(name: str, seconds: float, step: Any) -> Any:
        removed.append(name)
        return run(name, seconds, step)

    steps.run = noted  # type: ignore[method-assign]
    time_models(_asked({"it": proof}, proof, stopwatch, contest=1), remote, tmp_path, steps)
    uploads = [name for name in removed if name.startswith("uploading")]
    assert len(uploads) == removed.count("removing its files") == 3


def test_failing_before_the_proof_is_not_proven(
    device: Served, network: Path, stopwatch: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path)
    broken = _side(tmp_path)
    (broken / LIBRARY).write_bytes(b"\x7fELF no library")
    with pytest.raises((RuntimeError, ValueError)):
        asked = _asked({}, broken, stopwatch, contest=1)
        time_models(asked, rpc.connect(HOST, device.port), tmp_path, steps)
    assert not steps.proven
    assert steps.failed == "loading the default kernel"
    with pytest.raises((RuntimeError, ValueError)):
        asked = _asked({"it": broken}, _side(network), stopwatch, contest=1)
        time_models(asked, rpc.connect(HOST, device.port), tmp_path, steps)
    assert steps.proven


def test_times_that_are_cut_short_are_refused() -> None:
    whole = struct.pack("<QB", 2500, 3) + b"abc" + struct.pack("<QB", 10, 0)
    assert read_times(whole) == [("abc", 2.5), ("", 0.01)]
    for length in (5, 11, len(whole) - 1):
        with pytest.raises(ToolError, match="the device's times are"):
            read_times(whole[:length])
