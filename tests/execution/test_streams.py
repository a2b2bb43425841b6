"""Many inputs through one process: what comes back, and what happens when it fails."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.emulator.runner import EmulatedRunner
from mbv3c.execution.processes import Finished
from mbv3c.execution.runners import open_stream, read_array, written
from mbv3c.feeds import Array

SHAPE = (1, 4, 6, 6)


class Script:
    """A runner whose process is a Python script."""

    description = "a script"

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, bundle: Path, inputs: list[Array]) -> list[list[Array]]:
        raise NotImplementedError

    def stream_command(self, bundle: Path) -> list[str]:
        return [sys.executable, "-c", self.text]


class Called:
    """A runner that can only be called."""

    description = "a runner without a stream"

    def run(self, bundle: Path, inputs: list[Array]) -> list[list[Array]]:
        return [[x + 1, x.sum(keepdims=True)] for x in inputs]


def inputs(count: int) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


def test_arrays_survive_a_pipe() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in [(), (3,), (2, 0), SHAPE]]
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source:
        with os.fdopen(write, "wb") as sink:
            for array in arrays:
                sink.write(written(array))
        for array in arrays:
            found = read_array(source)
            assert found is not None
            assert found.shape == array.shape
            assert (found == array).all()
        assert read_array(source) is None


@pytest.mark.parametrize("cut", [1, 9, 40, 129, 200])
def test_a_torn_array_is_an_error(tmp_path: Path, cut: int) -> None:
    (tmp_path / "x").write_bytes(written(np.zeros(100, np.float32))[:cut])
    with (tmp_path / "x").open("rb") as source, pytest.raises((EOFError, ValueError)):
        read_array(source)


def test_one_emulated_process_answers_many_inputs(
    emulator_kit: EmulatorKit,
    tmp_path: Path,
    models: dict[int, Path],
    network: Callable[[np.ndarray], np.ndarray],
) -> None:
    (tmp_path / "model.so").write_bytes(models[2].read_bytes())
    runner = EmulatedRunner(emulator_kit, "cortex-a76")
    with open_stream(runner, tmp_path, 2) as stream:
        for x in inputs(5):
            stream.send([x])
            ((scores, squares),) = stream.receive()
            assert np.abs(scores - network(x)).max() < 1e-6
            assert np.array_equal(squares, scores * scores)


def test_mbv3c_run_refuses_what_does_not_go_together(board: Callable[..., Finished]) -> None:
    for arguments in (("b", "x.npy", "y.npy"), ("--repeat", "2", "b"), ("--kernels", "f", "b")):
        finished = board("--stream", *arguments)
        assert finished.returncode == 2
        assert "--stream" in finished.stderr


def test_mbv3c_run_says_what_is_wrong_with_an_input(
    emulator_kit: EmulatorKit, tmp_path: Path, models: dict[int, Path]
) -> None:
    (tmp_path / "model.so").write_bytes(models[1].read_bytes())
    runner = EmulatedRunner(emulator_kit, "cortex-a76")
    with open_stream(runner, tmp_path, 1) as stream:
        stream.send([np.zeros((1, 4, 5, 6), np.float32)])
        with pytest.raises(ToolError, match=r"emulated cortex-a76 ended with status 1(.|\n)*"):
            stream.receive()


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    dying = "import sys; sys.stdin.buffer.read(10); sys.exit('out of paper')"
    with open_stream(Script(dying), tmp_path, 1) as stream:
        stream.send(inputs(1))
        with pytest.raises(ToolError, match=r"a script ended with status(.|\n)*out of paper"):
            stream.receive()


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    hanging = "import sys, time; sys.stdin.buffer.read(10); time.sleep(600)"
    begin = time.monotonic()
    with open_stream(Script(hanging), tmp_path, 1, seconds=0.5) as stream:
        stream.send(inputs(1))
        with pytest.raises(ToolError, match=r"took more than 0\.5 s"):
            stream.receive()
    assert time.monotonic() - begin < 60


def test_a_process_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Missing(Script):
        def stream_command(self, bundle: Path) -> list[str]:
            return ["/no/such/program"]

    with (
        pytest.raises(ToolError, match="/no/such/program"),
        open_stream(Missing(""), tmp_path, 1),
    ):
        pass


def test_nothing_is_left_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    text = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with open_stream(Script(text), tmp_path, 1):
        while not (note.is_file() and note.read_text()):
            time.sleep(0.05)
    assert not Path(f"/proc/{note.read_text()}").exists()


def test_a_runner_without_a_stream_is_called_with_many(tmp_path: Path) -> None:
    with open_stream(Called(), tmp_path, 2) as stream:
        assert stream.at_once > 1
        given = inputs(3)
        stream.send(given)
        found = stream.receive()
    assert [[y.shape for y in outputs] for outputs in found] == [[SHAPE, (1, 1, 1, 1)]] * 3
    assert all(np.array_equal(outputs[0], x + 1) for outputs, x in zip(found, given, strict=True))
