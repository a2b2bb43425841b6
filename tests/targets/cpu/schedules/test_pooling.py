"""Global average pooling against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.plan import GlobalPool
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import pooling
from mbv3c.targets.cpu.schedules.pooling import Tile
from tests.targets.cpu.schedules.kernels import CHANNELS, MACHINES, PLACES, Call, check, random


def call(shape: GlobalPool, tile: Tile, machine: Processor) -> Call:
    x = random(shape.batch, shape.places, shape.channels)
    return Call(pooling.generate(shape, tile, machine), (x,), x.mean(axis=1, dtype=np.float64))


@settings(max_examples=4, deadline=None)
@given(batch=st.sampled_from([1, 2, 3]), places=PLACES, channels=CHANNELS, data=st.data())
def test_any_shape_and_tile(batch: int, places: int, channels: int, data: st.DataObject) -> None:
    shape = GlobalPool(batch, places, channels)
    calls = []
    for machine in MACHINES:
        tile = data.draw(st.sampled_from(pooling.legal(shape, machine)))
        calls += [call(shape, one, machine) for one in {tile, pooling.default(shape, machine)}]
    check(calls)


@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_every_legal_tile(machine: Processor) -> None:
    shape = GlobalPool(1, 5, 3 * machine.lanes("float32") + 5)
    check([call(shape, tile, machine) for tile in pooling.legal(shape, machine)])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("channels", [1, 16, 960])
def test_the_default_is_legal(channels: int, machine: Processor) -> None:
    shape = GlobalPool(1, 49, channels)
    assert pooling.default(shape, machine) in pooling.legal(shape, machine)


@pytest.mark.parametrize("places", [1, 5, 17, 49, 300])
def test_half_precision(places: int) -> None:
    shapes = [GlobalPool(2, places, channels, "float16") for channels in (3, 21, 40)]
    check([call(one, pooling.default(one, on), on) for one in shapes for on in MACHINES])


@pytest.mark.parametrize("value", [60000.0, -65504.0, 0.0009765625])
def test_the_mean_of_a_large_map_in_half_precision(value: float) -> None:
    """Sums of such values are beyond half precision, and shares of them below it.

    Equal values are all rounded to the same side: sixteen of them come to 1e-3 of their sum.
    """
    shape = GlobalPool(1, 112 * 112, 8, "float16")
    x = np.full((1, shape.places, shape.channels), value, np.float32)
    function = pooling.generate(shape, pooling.default(shape, MACHINES[0]), MACHINES[0])
    wanted = np.ones((1, shape.channels))
    check([Call(function, (x,), value * wanted)], tolerance=2e-3 * min(1.0, abs(value)))
