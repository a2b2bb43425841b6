"""Products in bfloat16 on an emulated core that has them, against float64 of rounded factors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from mbv3c.job import Job
from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import Plan, Step, Value
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, RELU
from mbv3c.precision import BF16
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.cpu import backend as cpu
from mbv3c.targets.cpu.cores import CORES
from mbv3c.targets.cpu.schedules import bfloats
from mbv3c.targets.cpu.schedules.bfloats import BfloatPointwise, Tile
from mbv3c.targets.cpu.schedules.operands import in_pairs
from mbv3c.targets.library.building import target_of
from tests.targets.cpu.schedules.kernels import Call, activate

CORE = CORES["cortex-a710"]
JOB = Job(replace(find_target("arm_cpu:cortex-a710"), cores=1), BF16)
_ERROR = 2e-6  # of the range: sums in fp32 in another order


def emulated(calls: Sequence[Call], folder: Path) -> list[NDArray[np.float32]]:
    """Run kernels of one library on the emulated core."""
    plan = Plan(("x",), ((1,),), values={"x": Value((1,))})
    for number, one in enumerate(calls):
        name, shape = f"y{number}", one.wanted.shape
        plan.values[name] = Value(shape)
        plan.steps.append(Step("bfloat_pointwise", (), one.function, (*one.inputs, name), (name,)))
        plan.outputs += (name,)
        plan.output_shapes += (shape,)
    cpu.build(assembled(plan).module, target_of(JOB), folder / "model.so")
    runner = backend_of(JOB.target).runner_for(target_of(JOB), BF16)
    assert runner is not None
    (made,) = runner.run(folder, [np.zeros(1, np.float32)])
    return made


def rounded(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values.astype(bfloat16).astype(np.float64)


def call(shape: BfloatPointwise, tile: Tile, seed: int) -> Call:
    random = np.random.default_rng(seed)
    x, w, bias, residual = (
        random.standard_normal(size).astype(np.float32)
        for size in (
            (shape.rows, shape.inputs),
            (shape.outputs, shape.inputs),
            (shape.outputs,),
            (shape.rows, shape.outputs),
        )
    )
    x[0, 0] = 1 + 2**-8  # between two values of bfloat16, of which 1 is even
    wanted = activate(rounded(x) @ rounded(w).T + bias, shape.activation)
    inputs = [x, bfloats.pack(shape, tile, CORE, w), in_pairs(bias)]
    if shape.residual:
        inputs.append(residual)
        wanted = wanted + residual
    return Call(bfloats.generate(shape, tile, CORE), tuple(inputs), wanted)


def test_any_shape_and_tile(emulator_kit: object, tmp_path: Path) -> None:
    """One row, odd rows, K beside multiples of 4 and 8, columns beside multiples of 4."""
    random, calls = np.random.default_rng(0), []
    for number, inputs in enumerate((4, 5, 7, 8, 11, 16, 21, 24, 40, 72, 96, 200)):
        rows = (1, 2, 3, 14, 49)[number % 5]
        outputs = (2, 4, 6, 8, 16, 30, 40)[number % 7]
        activation = (LINEAR, RELU, HARD_SWISH)[number % 3]
        shape = BfloatPointwise(rows, inputs, outputs, activation, residual=number % 2 == 1)
        tiles = bfloats.legal(shape, CORE)
        for order in (False, True):
            some = [tile for tile in tiles if tile.rows_outer == order]
            calls.append(call(shape, some[random.integers(len(some))], number))
        calls.append(call(shape, bfloats.default(shape, CORE), number))
    for one, made in zip(calls, emulated(calls, tmp_path), strict=True):
        error = np.abs(made - one.wanted).max() / np.ptp(one.wanted)
        assert error <= _ERROR, one.function


@pytest.mark.parametrize(
    ("inputs", "outputs", "does"), [(3, 8, False), (8, 7, False), (4, 2, True), (5, 8, True)]
)
def test_what_has_no_whole_operand_does_not_suit(inputs: int, outputs: int, does: bool) -> None:
    assert bfloats.suits(inputs, outputs) == does


def test_what_lies_on_the_stack_is_bounded() -> None:
    shape = BfloatPointwise(64, 30_000, 64, LINEAR)
    tiles = bfloats.legal(shape, CORE)
    assert tiles
    assert not any(tile.rows_outer for tile in tiles)
