"""The static cost of a launch: what it must do when one thing changes, and what it chooses."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.plan import Convolution, Depthwise, Pointwise
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, RELU
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets.opencl.gpus import GPUS, Gpu, LaunchWork
from mbv3c.targets.opencl.limits import launch_of
from mbv3c.targets.opencl.schedules import convolution, depthwise, gates, launch, pointwise
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product
from tests.targets.opencl.networks import lowered_for, rewritten

MALI = GPUS["mali"].gpu
GPU = st.sampled_from([device.gpu for device in GPUS.values()])
MODULES = {
    "pointwise": pointwise,
    "depthwise": depthwise,
    "convolution": convolution,
    "gates": gates,
}

works = st.builds(
    LaunchWork,
    items=st.integers(1, 1 << 20),
    madds=st.integers(0, 1 << 16),
    lines=st.floats(0, 1 << 16),
    touched=st.integers(0, 1 << 26),
    registers=st.integers(8, 64),
)


# ---- lines and warps ----


@given(GPU, st.integers(1, 64), st.integers(1, 4096), st.integers(1, 256))
def test_lines_are_enough_for_the_bytes_and_no_more_than_one_by_one(
    gpu: Gpu, neighbours: int, stride: int, width: int
) -> None:
    lines = gpu.lines(neighbours, stride, width)
    assert lines * gpu.line >= width
    assert lines <= neighbours * -(-width // gpu.line)
    assert lines <= gpu.lines(neighbours + 1, stride, width)
    assert lines <= gpu.lines(neighbours, stride + 1, width)
    assert lines <= gpu.lines(neighbours, stride, width + 1)


@pytest.mark.parametrize(
    ("neighbours", "stride", "width", "lines"),
    [(16, 16, 16, 4), (16, 0, 16, 1), (16, 64, 16, 16), (16, 4096, 16, 16), (1, 9, 128, 2)],
    ids=["side by side", "the same", "a line apart", "a row apart", "two lines wide"],
)
def test_lines_of_a_warp(neighbours: int, stride: int, width: int, lines: int) -> None:
    assert MALI.lines(neighbours, stride, width) == lines


@given(GPU, st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256]))
def test_the_sides_of_a_warp_make_a_warp(gpu: Gpu, across: int) -> None:
    side, down = gpu.in_warp(across)
    assert side == min(across, gpu.warp)
    assert side * down == gpu.warp


@pytest.mark.parametrize(
    ("group", "fits"),
    [
        ((256,), True),
        ((16, 16), True),
        ((2, 2, 64), True),
        ((512,), False),
        ((32, 16), False),
        ((1, 1, 128), False),
    ],
)
def test_a_work_group_fits(group: tuple[int, ...], fits: bool) -> None:
    assert GPUS["adreno"].gpu.fits(group) is fits


# ---- occupancy ----


@given(GPU, works)
def test_occupancy_grows_with_work_items_up_to_all_places(gpu: Gpu, work: LaunchWork) -> None:
    more = replace(work, items=2 * work.items)
    assert 0 < work.occupancy(gpu) <= more.occupancy(gpu) <= 1


def test_more_registers_than_half_of_them_halve_the_places() -> None:
    assert MALI.in_flight(32) == 4 * 1024
    assert MALI.in_flight(33) == 4 * 512
    work = LaunchWork(2048, 1, 1, 1, 32)
    assert work.occupancy(MALI) == 0.5
    assert replace(work, registers=33).occupancy(MALI) == 1.0
    unknown = GPUS["adreno"].gpu
    assert unknown.in_flight(1000) == unknown.in_flight(1) == 2 * 2048


# ---- clocks ----


@given(GPU, works, st.sampled_from(["madds", "lines", "touched"]), st.integers(1, 1 << 12))
def test_more_to_do_takes_no_less_time(gpu: Gpu, work: LaunchWork, what: str, more: int) -> None:
    harder = replace(work, **{what: getattr(work, what) + more})
    assert work.clocks(gpu) <= harder.clocks(gpu)


@given(GPU, works)
def test_a_launch_takes_its_time_whatever_it_does(gpu: Gpu, work: LaunchWork) -> None:
    assert LaunchWork(1, 0, 0, 0, 8).clocks(gpu) == gpu.launch
    assert work.clocks(gpu) >= gpu.launch


@given(GPU, works, st.sampled_from(["cores", "madds", "memory"]))
def test_a_stronger_gpu_is_not_slower_with_its_places_taken(
    gpu: Gpu, work: LaunchWork, what: str
) -> None:
    """Of a launch that fills either: more cores also mean more places to fill."""
    full = replace(work, items=2 * gpu.in_flight(8))
    stronger = replace(gpu, **{what: 2 * getattr(gpu, what)})
    assert full.clocks(stronger) <= full.clocks(gpu) * (1 + 1e-9)


def test_the_busiest_part_decides_and_the_others_add_a_tenth() -> None:
    full = LaunchWork(4 * 1024, 640, 100, 1 << 20, 32)
    arithmetic = 256 // 4 * 16 * 640 / 64
    caches, memory = 256 // 4 * 100, (1 << 20) / 16
    assert full.clocks(MALI) == pytest.approx(8000 + memory + 0.1 * (arithmetic + caches))


def test_few_work_items_do_not_hide_latency() -> None:
    """A quarter of the places hides it; a sixteenth takes as long as four times the work."""
    quarter, sixteenth = (LaunchWork(items, 1000, 0, 0, 32) for items in (1024, 256))
    rest = MALI.launch
    assert quarter.clocks(MALI) - rest == pytest.approx(sixteenth.clocks(MALI) - rest)


def test_less_than_a_warp_takes_a_warps_time() -> None:
    one, warp = (LaunchWork(items, 1000, 0, 0, 32) for items in (1, 16))
    assert one.clocks(MALI) >= warp.clocks(MALI)


# ---- what is legal, and what is chosen ----


def _axis(size: int, taps: int, stride: int) -> Axis:
    return Axis(size, taps, stride, 1, taps // 2, taps // 2)


SHAPES: list[tuple[str, Any]] = [
    ("pointwise", Product(Pointwise(3136, 16, 72, RELU))),
    ("pointwise", Product(Pointwise(49, 96, 576, HARD_SWISH, residual=True), gated=True)),
    ("pointwise", Product(Pointwise(1, 576, 1000, HARD_SWISH))),
    ("pointwise", Product(Pointwise(7, 5, 3, RELU))),
    ("depthwise", DepthwiseMap(Depthwise(1, 96, *[_axis(28, 5, 2)] * 2, RELU), sums=True)),
    ("depthwise", DepthwiseMap(Depthwise(2, 21, *[_axis(7, 3, 1)] * 2, RELU))),
    ("depthwise", DepthwiseMap(Depthwise(1, 4, *[_axis(1, 3, 1)] * 2, RELU))),
    ("convolution", Convolution(1, 3, 16, *[_axis(224, 3, 2)] * 2, HARD_SWISH, True)),
    ("convolution", Convolution(1, 5, 7, *[_axis(9, 3, 1)] * 2, RELU, False)),
    ("gates", Gates(1, 28, 784, 96, 24, RELU, HARD_SIGMOID)),
    ("gates", Gates(3, 7, 49, 960, 240, RELU, HARD_SIGMOID)),
]


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_only_what_fits_is_legal(kind: str, shape: Any, device: str) -> None:
    """By the launch that the generated kernel asks for, not by what the schedule counts."""
    gpu, module = GPUS[device].gpu, MODULES[kind]
    tiles = module.legal(shape, gpu)
    assert tiles
    assert len(set(tiles)) == len(tiles)
    for tile in tiles[:: max(1, len(tiles) // 12)]:
        one = launch_of(module.generate(shape, tile))
        assert gpu.fits(one.group), tile
        assert not gpu.registers or one.registers <= gpu.registers, tile
        work = module.work(shape, tile, gpu)
        assert work.items == prod(one.group) * prod(one.groups), tile
        assert work.registers == one.registers, tile


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_the_default_takes_the_least_time_of_all_that_is_legal(
    kind: str, shape: Any, device: str
) -> None:
    gpu, module = GPUS[device].gpu, MODULES[kind]
    best = module.default(shape, gpu)
    tiles = module.legal(shape, gpu)
    assert best in tiles
    clocks = [module.work(shape, tile, gpu).clocks(gpu) for tile in tiles]
    assert module.work(shape, best, gpu).clocks(gpu) == min(clocks)


@pytest.mark.parametrize("device", GPUS)
def test_work_grows_with_the_shape(device: str) -> None:
    gpu = GPUS[device].gpu
    small, large = (Product(Pointwise(rows, 96, 576, RELU)) for rows in (49, 196))
    times = [
        pointwise.work(one, pointwise.default(one, gpu), gpu).clocks(gpu) for one in (small, large)
    ]
    assert gpu.launch < times[0] < times[1]


def test_half_precision_moves_half_the_bytes() -> None:
    for kind, shape in SHAPES[:2]:
        half = replace(shape, shape=replace(shape.shape, dtype="float16"))
        tile = MODULES[kind].default(shape, MALI)
        single, halved = (MODULES[kind].work(one, tile, MALI) for one in (shape, half))
        assert 2 * halved.touched == single.touched
        assert halved.lines <= single.lines
        assert halved.madds == single.madds


@pytest.fixture(scope="module")
def asked() -> Iterator[list[tuple[str, Any, Any]]]:
    """Record every shape for which a kernel is chosen, with the choice."""
    found: list[tuple[str, Any, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind, module in MODULES.items():
            patch.setattr(module, "default", _recording(kind, module.default, found))
        yield found


def _recording(kind: str, default: Any, found: list[tuple[str, Any, Any]]) -> Any:
    def chosen(shape: Any, gpu: Gpu) -> Any:
        tile = default(shape, gpu)
        found.append((kind, shape, tile))
        return tile

    return chosen


@pytest.fixture(scope="module")
def networks() -> list[Any]:
    return [rewritten(ModelSpec(variant)) for variant in ("small", "large")]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize("device", GPUS)
def test_every_default_of_the_networks_is_legal(
    networks: list[Any], asked: list[tuple[str, Any, Any]], device: str, precision: Precision
) -> None:
    asked.clear()
    gpu = GPUS[device].gpu
    for model in networks:
        lowered_for(model, device, precision)
    assert {kind for kind, _, _ in asked} == set(MODULES)
    assert len(asked) > 80
    for kind, shape, tile in set(asked):
        assert tile in MODULES[kind].legal(shape, gpu), (kind, shape)


def test_groups_end_not_far_beyond_the_grid() -> None:
    """A work-group is less than twice the grid along either side."""
    for grid in ((1, 1), (3, 50), (250, 1), (9, 200, 7)):
        for gpu in (device.gpu for device in GPUS.values()):
            for across, down in launch.shapes_of_groups(grid, gpu):
                assert across < 2 * grid[0] or down == 1
                assert down < 2 * grid[1]
                assert gpu.fits((across, down))
