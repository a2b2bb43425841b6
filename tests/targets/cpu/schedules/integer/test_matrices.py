"""Products by `smmla` and `sdot` on an emulated core that has both, against exact integers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import Plan, Step, Value
from mbv3c.precision import INT8
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.cpu import backend as cpu
from mbv3c.targets.cpu.cores import CORES, Processor
from mbv3c.targets.cpu.schedules.integer import pointwise as integer_pointwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise, Tile
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization, in_fixed_point
from mbv3c.targets.cpu.schedules.operands import PAIR
from tests.targets.cpu.schedules.integer.kernels import Array, Call, in_places, rounded
from tests.targets.cpu.schedules.integer.test_pointwise import call

TARGET = replace(find_target("arm_cpu:cortex-a710"), cores=1)
CORE = CORES["cortex-a710"]
SMMLA = "aarch64.neon.smmla"


def emulated(calls: Sequence[Call], folder: Path) -> list[Array]:
    """Run kernels of one library on the emulated core."""
    plan = Plan(("x",), ((1,),), values={"x": Value((1,))})
    for number, one in enumerate(calls):
        *inputs, last = one.function.params
        name, shape = f"y{number}", tuple(int(size) for size in last.shape)
        plan.values[name] = Value(shape, "int8")
        given = [
            array.astype(str(param.dtype)) for array, param in zip(one.inputs, inputs, strict=True)
        ]
        plan.steps.append(Step("integer_pointwise", (), one.function, (*given, name), (name,)))
        plan.outputs += (name,)
        plan.output_shapes += (shape,)
    cpu.build(assembled(plan).module, TARGET, folder / "model.so")
    runner = backend_of(TARGET).runner_for(TARGET, INT8)
    assert runner is not None
    (made,) = runner.run(folder, [np.zeros(1, np.float32)])
    return made


def drawn() -> list[Call]:
    """Draw shapes that nothing divides, and tiles of both orders."""
    random = np.random.default_rng(0)
    calls = []
    for number, inputs in enumerate((8, 9, 15, 16, 17, 21, 24, 40, 67, 80, 100, 144)):
        rows = (2, 3, 5, 14, 49)[number % 5]
        outputs = (1, 3, 8, 10, 12, 21, 24, 31, 40, 44, 60)[number % 11]
        low, high = ((-128, 127), (-128, 90), (-20, 127), (3, 44))[number % 4]
        zero = (-128, -5, 0, 31, 127)[number % 5]
        output = Requantization(zero, low, high, lookup=number % 2 == 1)
        shape = IntegerPointwise(rows, inputs, outputs, output)
        for order in (False, True):
            some = [tile for tile in legal(shape) if tile.rows_outer == order]
            tile = some[random.integers(len(some))]
            calls.append(call(shape, tile, (31, -128, 0, 127, -5)[number % 5], CORE))
            shape = replace(shape, output=replace(output, small=True))
    return calls


def legal(shape: IntegerPointwise) -> list[Tile]:
    tiles = integer_pointwise.legal(shape, CORE)
    assert {tile.rows % PAIR for tile in tiles} == {0}
    return tiles


def halves(core: Processor, output: Requantization) -> Call:
    """Halve the inputs: half of all results lie between two integers."""
    shape = IntegerPointwise(32, 8, 8, output)
    tile = integer_pointwise.default(shape, core)
    x = np.arange(256).astype(np.int8).reshape(32, 8)
    w, bias, scale = np.eye(8, dtype=np.int8), np.zeros(8, np.int32), np.full(8, 0.5, np.float32)
    constants = (
        integer_pointwise.pack(shape, tile, core, w),
        integer_pointwise.pad(shape, core, bias),
        integer_pointwise.pad(shape, core, scale),
    )
    function = integer_pointwise.generate(shape, tile, core)
    return Call(function, (x, *constants), rounded(x, scale, output))


def by_fixed_point(core: Processor, outputs: int, zero: int, low: int) -> Call:
    """Take factors as fixed-point numbers; some sums saturate."""
    random = np.random.default_rng(outputs)
    x = random.integers(-128, 128, (11, 24)).astype(np.int8)
    w = random.integers(-127, 128, (outputs, 24)).astype(np.int8)
    scale = random.uniform(0.002, 0.01, outputs).astype(np.float32)
    reach = 128.0 * np.abs(w.astype(np.int64)).sum(1)
    output, factors = in_fixed_point(Requantization(zero, low), reach, scale)
    assert output.shift > 0
    shape = IntegerPointwise(11, 24, outputs, output)
    tile = integer_pointwise.default(shape, core)
    constants = (
        integer_pointwise.pack(shape, tile, core, w),
        integer_pointwise.pad(shape, core, np.zeros(outputs, np.int32)),
        integer_pointwise.pad(shape, core, factors),
    )
    function = integer_pointwise.generate(shape, tile, core)
    wanted = in_places(x.astype(np.int64) @ w.T.astype(np.int64), factors, output)
    assert {low, 127} <= set(wanted.ravel())
    return Call(function, (x, *constants), wanted)


def test_any_shape_and_tile(emulator_kit: object, tmp_path: Path) -> None:
    """Odd rows and columns, K beside multiples of 8 and 16, the largest sums, and halves."""
    calls = drawn()
    largest = IntegerPointwise(4, 1000, 4, Requantization(0))
    tile = integer_pointwise.default(largest, CORE)
    calls += [call(largest, tile, 0, CORE, extreme) for extreme in (-128, 127)]
    assert all(SMMLA in str(one.function) for one in calls)
    calls += [
        halves(core, Requantization(zero, small=small))
        for core in (CORE, CORES["cortex-a76"])
        for zero in (-127, -128, 0, 1)
        for small in (False, True)
    ]
    calls += [
        by_fixed_point(core, outputs, zero, low)
        for core in (CORE, CORES["cortex-a76"], CORES["cortex-a53"])
        for outputs, zero, low in ((4, 0, -128), (28, -128, -128), (40, 33, -20))
    ]
    for one, made in zip(calls, emulated(calls, tmp_path), strict=True):
        np.testing.assert_array_equal(made, one.wanted)


@pytest.mark.parametrize(
    ("core", "rows", "inputs", "has"),
    [
        ("cortex-a710", 2, 8, True),
        ("neoverse-v1", 49, 960, True),
        ("cortex-a710", 1, 960, False),
        ("cortex-a710", 49, 7, False),
        ("cortex-a76", 49, 960, False),
        ("cortex-a53", 49, 960, False),
    ],
)
def test_where_matrices_are_multiplied(core: str, rows: int, inputs: int, has: bool) -> None:
    """A single row would leave half of an instruction unused."""
    shape = IntegerPointwise(rows, inputs, 16, Requantization(0))
    tile = integer_pointwise.default(shape, CORES[core])
    assert (SMMLA in str(integer_pointwise.generate(shape, tile, CORES[core]))) == has


def test_what_lies_on_the_stack_is_bounded() -> None:
    """Threads have small stacks; rows that are too long are paired where they are multiplied."""
    shape = IntegerPointwise(64, 30_000, 64, Requantization(0))
    assert not any(tile.rows_outer for tile in integer_pointwise.legal(shape, CORE))
