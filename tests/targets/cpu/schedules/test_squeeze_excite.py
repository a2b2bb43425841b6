"""Squeeze-and-excitation, in place, against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.schedules.emit import HARD_SIGMOID, LINEAR, RELU, Activation
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import squeeze_excite
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite, Tile
from tests.targets.cpu.schedules.kernels import (
    ACTIVATIONS,
    CHANNELS,
    MACHINES,
    PLACES,
    Call,
    activate,
    check,
    machines,
    random,
)


def call(shape: SqueezeExcite, tile: Tile, machine: Processor) -> Call:
    x = random(shape.batch, shape.places, shape.channels)
    w1, b1 = random(shape.squeezed, shape.channels, seed=1), random(shape.squeezed, seed=2)
    w2, b2 = random(shape.channels, shape.squeezed, seed=3), random(shape.channels, seed=4)
    means = x.astype(np.float64).mean(axis=1)
    reduced = activate(means @ w1.T + b1, shape.reduce)
    gates = activate(reduced @ w2.T + b2, shape.gate)
    packed = [squeeze_excite.pack(one, tile, machine, shape.dtype) for one in (w1, w2)]
    function = squeeze_excite.generate(shape, tile, machine)
    inputs = (x, packed[0], b1, packed[1], b2)
    return Call(function, inputs, x * gates[:, None], in_place=True)


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 3]),
    places=PLACES,
    channels=CHANNELS,
    squeezed=CHANNELS,
    reduce=st.sampled_from(ACTIVATIONS),
    gate=st.sampled_from(ACTIVATIONS),
    machines=machines(),
    data=st.data(),
)
def test_any_shape_and_tile(
    batch: int,
    places: int,
    channels: int,
    squeezed: int,
    reduce: Activation,
    gate: Activation,
    machines: tuple[Processor, ...],
    data: st.DataObject,
) -> None:
    shape = SqueezeExcite(batch, places, channels, squeezed, reduce, gate)
    calls = []
    for machine in machines:
        tiles = {
            squeeze_excite.default(shape, machine),
            data.draw(st.sampled_from(squeeze_excite.legal(shape, machine))),
        }
        calls += [call(shape, tile, machine) for tile in tiles]
    check(calls)


@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_every_legal_tile(machine: Processor) -> None:
    shape = SqueezeExcite(1, 5, 3 * machine.lanes("float32") + 5, 9, RELU, HARD_SIGMOID)
    check([call(shape, tile, machine) for tile in squeeze_excite.legal(shape, machine)])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("channels", [1, 16, 960])
def test_the_default_is_legal(channels: int, machine: Processor) -> None:
    shape = SqueezeExcite(1, 49, channels, max(1, channels // 4), LINEAR, LINEAR)
    assert squeeze_excite.default(shape, machine) in squeeze_excite.legal(shape, machine)


def test_half_precision() -> None:
    shapes = [
        SqueezeExcite(2, places, channels, squeezed, RELU, HARD_SIGMOID, "float16")
        for places, channels, squeezed in ((49, 40, 8), (300, 21, 5), (1, 16, 24))
    ]
    check([call(one, squeeze_excite.default(one, on), on) for one in shapes for on in MACHINES])
