"""What touches every value once, on a GPU, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Elementwise, GlobalPool, Transpose
from mbv3c.lowering.schedules.emit import LINEAR, Activation
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import simple
from tests.targets.cpu.schedules.kernels import ACTIVATIONS, CHANNELS, PLACES, activate, random
from tests.targets.opencl.schedules.kernels import MALI, Call, check, devices, dtypes

BATCH = st.sampled_from([1, 2, 3])


@settings(max_examples=6, deadline=None)
@given(
    batch=BATCH,
    places=PLACES,
    channels=CHANNELS,
    operator=st.sampled_from(["", "add", "multiply"]),
    per_channel=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=dtypes(),
    gpu=devices(),
)
def test_elementwise(
    batch: int,
    places: int,
    channels: int,
    operator: str,
    per_channel: bool,
    activation: Activation,
    dtype: str,
    gpu: Gpu,
) -> None:
    per_channel = per_channel and bool(operator)
    shape = Elementwise(batch, places, channels, operator, per_channel, activation, dtype)
    a = random(batch, places, channels)
    b = random(batch, 1 if per_channel else places, channels, seed=1)
    value = {"": a, "add": a + b, "multiply": a.astype(np.float64) * b}[operator]
    wanted = activate(value.astype(np.float64), activation)
    function = simple.generate_elementwise(shape, gpu)
    check([Call(function, (a, b) if operator else (a,), (wanted,))])


def test_gates_of_another_type_scale_a_map() -> None:
    shape = Elementwise(2, 5, 12, "multiply", True, LINEAR, "float16")
    a, b = random(2, 5, 12), random(2, 12, seed=1)
    function = simple.generate_elementwise(shape, MALI, "float32")
    assert str(function.params[1].dtype) == "float32"
    check([Call(function, (a, b), (a.astype(np.float64) * b[:, None],))])


@pytest.mark.parametrize(
    ("given_", "made"), [("float32", "float16"), ("float16", "float32"), ("int64", "int64")]
)
def test_copies_of_any_type(given_: str, made: str) -> None:
    shape = Elementwise(1, 1, 22, "", False, LINEAR, given_, made)
    x = np.arange(22).astype(np.float32) * (1 << 40 if given_ == "int64" else 1)
    call = Call(simple.generate_elementwise(shape, MALI), (x,), (x.astype(np.float64),))
    check([call])


@settings(max_examples=5, deadline=None)
@given(batch=BATCH, places=PLACES, channels=CHANNELS, dtype=dtypes(), gpu=devices())
def test_pool(batch: int, places: int, channels: int, dtype: str, gpu: Gpu) -> None:
    x = random(batch, places, channels)
    shape = GlobalPool(batch, places, channels, dtype)
    wanted = x.astype(np.float64).mean(axis=1)
    check([Call(simple.generate_pool(shape, gpu), (x,), (wanted,))])


@settings(max_examples=4, deadline=None)
@given(batch=BATCH, rows=PLACES, columns=CHANNELS, gpu=devices())
def test_transpose(batch: int, rows: int, columns: int, gpu: Gpu) -> None:
    x = random(batch, rows, columns)
    shape = Transpose(batch, rows, columns, "float32", "float16")
    wanted = x.transpose(0, 2, 1).astype(np.float64)
    check([Call(simple.generate_transpose(shape, gpu), (x,), (wanted,))])
