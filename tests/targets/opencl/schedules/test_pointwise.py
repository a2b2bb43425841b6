"""Products on a GPU against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules.emit import HARD_SWISH, LINEAR, Activation
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import pointwise
from mbv3c.targets.opencl.schedules.pointwise import Product, Tile
from tests.targets.cpu.schedules.kernels import ACTIVATIONS, CHANNELS, PLACES, activate, random
from tests.targets.opencl.schedules.kernels import MALI, Call, check, devices, dtypes


def call(product: Product, tile: Tile) -> Call:
    shape = product.shape
    x = random(shape.rows, shape.inputs)
    gates = random(product.images, shape.inputs, seed=1)
    weights = random(shape.outputs, shape.inputs, seed=2)
    bias = random(shape.outputs, seed=3)
    residual = random(shape.rows, shape.outputs, seed=4)
    scaled = x.astype(np.float64)
    if product.gated:
        scaled = scaled * np.repeat(gates, shape.rows // product.images, axis=0)
    wanted = activate(scaled @ weights.T.astype(np.float64) + bias, shape.activation)
    if shape.residual:
        wanted = wanted + residual
    inputs = (
        x,
        *([gates] if product.gated else []),
        pointwise.pack(weights),
        bias,
        *([residual] if shape.residual else []),
    )
    return Call(pointwise.generate(product, tile), inputs, (wanted,))


@settings(max_examples=4, deadline=None)
@given(
    images=st.sampled_from([1, 2, 3]),
    places=PLACES,
    inputs=CHANNELS,
    outputs=CHANNELS,
    activation=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    gated=st.booleans(),
    dtype=dtypes(),
    gpu=devices(),
    data=st.data(),
)
def test_any_shape_and_tile(
    images: int,
    places: int,
    inputs: int,
    outputs: int,
    activation: Activation,
    residual: bool,
    gated: bool,
    dtype: str,
    gpu: Gpu,
    data: st.DataObject,
) -> None:
    shape = Pointwise(images * places, inputs, outputs, activation, residual, dtype)
    product = Product(shape, images if gated else 1, gated)
    tiles = {
        pointwise.default(product, gpu),
        data.draw(st.sampled_from(pointwise.legal(product, gpu))),
    }
    check([call(product, tile) for tile in tiles])


def test_the_result_may_have_another_type() -> None:
    product = Product(Pointwise(3, 8, 12, HARD_SWISH, dtype="float16"), result="float32")
    check([call(product, pointwise.default(product, MALI))])


def test_every_tile_covers_all_of_y() -> None:
    product = Product(Pointwise(7, 12, 24, LINEAR))
    tiles = pointwise.legal(product, MALI)
    kept = {(t.rows, t.vectors, t.unroll): t for t in tiles}
    assert {rows for rows, _, _ in kept} == set(
        range(1, 7)
    )  # of 7 the registers of Mali do not hold
    check([call(product, tile) for tile in list(kept.values())[::3]])


@pytest.mark.parametrize("outputs", [1000, 576, 24, 7])
def test_the_default_is_legal_and_no_slower_than_any(outputs: int) -> None:
    product = Product(Pointwise(49, 96, outputs, HARD_SWISH))
    tiles = pointwise.legal(product, MALI)
    best = pointwise.default(product, MALI)
    assert best in tiles
    clocks = [pointwise.work(product, tile, MALI).clocks(MALI) for tile in tiles]
    assert pointwise.work(product, best, MALI).clocks(MALI) == min(clocks)
