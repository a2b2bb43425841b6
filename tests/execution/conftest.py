"""Parts that the execution tests share: a board and a small model compiled for ARM."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mbv3c.execution.emulator.counting import Count, count
from mbv3c.execution.emulator.kit import EmulatorKit, emulator_command
from mbv3c.execution.processes import Finished, finish

CHANNELS, CLASSES = 4, 5
_EXIT = "    mov x0, #0\n    mov x8, #93\n    svc #0\n"


@pytest.fixture
def counted(emulator_kit: EmulatorKit, tmp_path: Path) -> Callable[[str], Count]:
    """Return what assembles a program, model.so in `tmp_path`, and counts it."""

    def run(body: str) -> Count:
        source, program = tmp_path / "model.s", tmp_path / "model.so"
        head = ".globl _start\n.type _start, %function\n_start:\n"
        source.write_text(head + body + _EXIT)
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
        subprocess.run([*command, "-nostdlib", "-static", "-o", program, source], check=True)
        qemu = emulator_command(emulator_kit.system)
        return count(
            lambda plugin: [*qemu, *plugin, program], emulator_kit, doing="counting a program"
        )

    return run


@pytest.fixture(scope="session")
def board(emulator_kit: EmulatorKit) -> Callable[..., Finished]:
    """Return what runs mbv3c_run, with the given arguments, on an emulated Cortex-A76."""
    return lambda *arguments: finish(
        [*emulator_kit.command("cortex-a76"), *arguments], timeout=120
    )


def link_for_aarch64(
    output: str, objects: Sequence[str], options: Sequence[str] | None = None
) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-nostdlib"]
    subprocess.run([*command, "-shared", "-o", output, *objects, *(options or ())], check=True)


link_for_aarch64.output_format = "so"  # type: ignore[attr-defined]
link_for_aarch64.get_target_triple = lambda: "aarch64-linux-gnu"  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CHANNELS, CLASSES)).astype(np.float32)


@pytest.fixture(scope="session")
def network(weight: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return in numpy what `models` compute: hard swish, mean over height and width, dense."""

    def scores(x: np.ndarray) -> np.ndarray:
        mean = (x * np.clip(x / 6 + 0.5, 0, 1)).mean(axis=(2, 3), dtype=np.float32)
        result: np.ndarray = mean @ weight
        return result

    return scores


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, weight: np.ndarray) -> dict[int, Path]:
    """Return libraries for aarch64, one returning the scores, one also the scores' squares.

    The key is the number of outputs. Their input is 1 x CHANNELS x 6 x 6.
    """
    import tvm
    from tvm import relax

    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
    folder = tmp_path_factory.mktemp("models")
    paths = {outputs: folder / f"model{outputs}.so" for outputs in (1, 2)}
    for outputs, path in paths.items():
        builder = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType((1, CHANNELS, 6, 6), "float32"))
        with builder.function("main", [x]):
            gate = relax.op.clip(x / relax.const(6.0) + relax.const(0.5), 0.0, 1.0)
            mean = relax.op.mean(x * gate, axis=[2, 3])
            scores = builder.emit(relax.op.matmul(mean, relax.const(weight)))
            squares = builder.emit(scores * scores)
            builder.emit_func_output(scores if outputs == 1 else [scores, squares])
        executable = tvm.compile(builder.get(), target=tvm.target.Target(target))
        executable.export_library(str(path), fcompile=link_for_aarch64)
    return paths
