"""Sums, products, activations and changes of layout against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Elementwise, Transpose
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, Activation
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.elementwise import generate_elementwise, generate_transpose
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    AVX512,
    CHANNELS,
    MACHINES,
    NEON,
    PLACES,
    TOLERANCE,
    Call,
    activate,
    check,
    random,
)

OPERATORS = {
    "": lambda a, b: a,
    "add": np.add,
    "multiply": np.multiply,
}


def call(shape: Elementwise, machine: Processor) -> Call:
    a = random(shape.batch, shape.places, shape.channels)
    b = random(shape.batch, 1 if shape.per_channel else shape.places, shape.channels, seed=1)
    wanted = activate(OPERATORS[shape.operator](a.astype(np.float64), b), shape.activation)
    return Call(generate_elementwise(shape, machine), (a, b) if shape.operator else (a,), wanted)


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    places=PLACES,
    channels=CHANNELS,
    activation=st.sampled_from(ACTIVATIONS),
)
def test_any_shape(batch: int, places: int, channels: int, activation: Activation) -> None:
    kinds = [("", False), *((op, flag) for op in ("add", "multiply") for flag in (False, True))]
    check(
        [
            call(Elementwise(batch, places, channels, *kind, activation), machine)
            for kind in kinds
            for machine in MACHINES
        ]
    )


def test_each_activation_at_and_around_its_bends() -> None:
    near = np.array([-3, -0.5, 0, 0.25, 0.5, 1, 3, 6], np.float64)[:, None]
    x = (near + np.array([-1e-3, 0, 1e-3])).astype(np.float32).reshape(1, 1, -1)
    check(
        [
            Call(
                generate_elementwise(
                    Elementwise(1, 1, x.size, "", per_channel=False, activation=one), AVX512
                ),
                (x,),
                activate(x.astype(np.float64), one),
            )
            for one in ACTIVATIONS
        ]
    )


@settings(max_examples=4, deadline=None)
@given(batch=st.sampled_from([1, 2, 3]), rows=PLACES, columns=CHANNELS)
def test_transpose(batch: int, rows: int, columns: int) -> None:
    x = random(batch, rows, columns)
    wanted = x.transpose(0, 2, 1).astype(np.float64)
    shape = Transpose(batch, rows, columns)
    check([Call(generate_transpose(shape, machine), (x,), wanted) for machine in MACHINES])


def test_half_precision() -> None:
    kinds = [("", False), *((op, flag) for op in ("add", "multiply") for flag in (False, True))]
    shapes = [Elementwise(2, 5, 21, *kind, HARD_SWISH, "float16") for kind in kinds]
    check([call(shape, machine) for shape in shapes for machine in MACHINES])


@pytest.mark.parametrize("types", [("float32", "float16"), ("float16", "float32")])
def test_conversions(types: tuple[str, str]) -> None:
    copied = Elementwise(2, 5, 21, "", False, LINEAR, *types)
    x = random(2, 3, 7)
    turned = Call(generate_transpose(Transpose(2, 3, 7, *types), NEON), (x,), x.transpose(0, 2, 1))
    check([*(call(copied, machine) for machine in MACHINES), turned], tolerance=TOLERANCE)
