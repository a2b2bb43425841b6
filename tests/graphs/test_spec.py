"""The tables of the paper, and the rounding of channels."""

import pytest

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Architecture, make_divisible, squeeze_channels
from mbv3c.graphs.networks import LARGE, SMALL
from mbv3c.graphs.spec import HEAD_TRAITS, ModelSpec, architecture

# arXiv:1905.02244, Tables 1 and 2: kernel, expansion, output, SE, activation, stride.
LARGE_TABLE = """
    3 16 16 - RE 1
    3 64 24 - RE 2
    3 72 24 - RE 1
    5 72 40 SE RE 2
    5 120 40 SE RE 1
    5 120 40 SE RE 1
    3 240 80 - HS 2
    3 200 80 - HS 1
    3 184 80 - HS 1
    3 184 80 - HS 1
    3 480 112 SE HS 1
    3 672 112 SE HS 1
    5 672 160 SE HS 2
    5 960 160 SE HS 1
    5 960 160 SE HS 1
"""
SMALL_TABLE = """
    3 16 16 SE RE 2
    3 72 24 - RE 2
    3 88 24 - RE 1
    5 96 40 SE HS 2
    5 240 40 SE HS 1
    5 240 40 SE HS 1
    5 120 48 SE HS 1
    5 144 48 SE HS 1
    5 288 96 SE HS 2
    5 576 96 SE HS 1
    5 576 96 SE HS 1
"""


def table(architecture: Architecture) -> list[str]:
    """Print blocks as the paper does."""
    activations = {"relu": "RE", "hardswish": "HS"}
    return [
        f"{b.kernel} {b.expand} {b.out} {'SE' if b.squeeze else '-'} "
        f"{activations[b.activation]} {b.stride}"
        for b in architecture.blocks
    ]


@pytest.mark.parametrize(
    ("architecture", "text"), [(LARGE, LARGE_TABLE), (SMALL, SMALL_TABLE)], ids=["large", "small"]
)
def test_blocks_are_those_of_the_paper(architecture: Architecture, text: str) -> None:
    assert table(architecture) == [line.strip() for line in text.strip().splitlines()]


def test_stem_and_tail_are_those_of_the_paper() -> None:
    assert (LARGE.stem, LARGE.last_conv, LARGE.hidden) == (16, 960, 1280)
    assert (SMALL.stem, SMALL.last_conv, SMALL.hidden) == (16, 576, 1024)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1, 8),  # at least the divisor
        (8, 8),
        (11.9, 16),  # 8 would be below 90 %
        (12, 16),
        (18, 24),  # 16 would be below 90 %
        (17.7, 16),
        (19, 24),  # 16 would be below 90 %
        (60, 64),
        (168, 168),
    ],
)
def test_make_divisible(value: float, rounded: int) -> None:
    assert make_divisible(value) == rounded


@pytest.mark.parametrize(
    ("expand", "squeezed"), [(16, 8), (72, 24), (96, 24), (120, 32), (240, 64), (672, 168)]
)
def test_squeeze_channels(expand: int, squeezed: int) -> None:
    assert squeeze_channels(expand) == squeezed


def test_a_spec_knows_its_name_and_shape() -> None:
    spec = ModelSpec("small", resolution=96, batch=2)
    assert spec.name == "mobilenet_v3_small"
    assert spec.input_shape == (2, 3, 96, 96)
    assert architecture(spec) == SMALL


@pytest.mark.parametrize("head", HEAD_TRAITS)
def test_supported_resolutions(head: str) -> None:
    traits = HEAD_TRAITS[head]
    assert traits.resolution in traits.resolutions
    for side in traits.resolutions:
        assert ModelSpec(head=head, resolution=side).input_shape == (1, 3, side, side)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "medium"}, "unknown variant 'medium'; known: large, small"),
        (
            {"resolution": 100},
            "resolution 100 is not supported with head classify; choose 32 to 512",
        ),
        ({"resolution": 544}, "resolution 544 is not supported"),
        ({"head": "lraspp", "resolution": 2080}, "with head lraspp; choose 96 to 2048 by 32"),
        ({"head": "ssdlite", "resolution": 352}, "with head ssdlite; choose 320"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_refuses_what_is_not_supported(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSpec(**wrong)
