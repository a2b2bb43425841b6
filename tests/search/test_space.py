"""The networks of a space: legal, deterministic, and MobileNetV3 is near its middle."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture_file import architecture_text, read_architecture_file
from mbv3c.graphs.count import count
from mbv3c.graphs.networks import LARGE, SMALL, mobilenet_v3
from mbv3c.search.space import Candidate, Space, width_family

SPACE = Space("small", (32, 64))


def drawn(space: Space, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    return {choice.name: rng.randrange(len(choice.values)) for choice in space.choices}


def middle() -> dict[str, int]:
    """Return what is nearest to Small: of each choice the value that its stages have."""
    wanted = {"stem": 16, "last_conv": 6, "hidden": 1024, "resolution": 64}
    stages = [(16, 1, True, 3, 1, "relu"), (24, 4, False, 3, 2, "relu")]
    stages += [(40, 6, True, 5, 3, "hardswish"), (48, 3, True, 5, 2, "hardswish")]
    stages += [(96, 6, True, 5, 3, "hardswish")]
    for index, (out, ratio, squeezed, kernel, blocks, activation) in enumerate(stages, 1):
        wanted |= {
            f"stage{index}.out": out,
            f"stage{index}.expansion": ratio,
            f"stage{index}.squeezed": squeezed,
            f"stage{index}.kernel": kernel,
            f"stage{index}.blocks": blocks,
            f"stage{index}.activation": activation,
        }
    return {choice.name: choice.values.index(wanted[choice.name]) for choice in SPACE.choices}


def test_small_is_in_it_but_for_the_expansions_of_single_blocks() -> None:
    found = SPACE.network(middle())
    wanted = [replace(block, expand=0, squeeze=0) for block in SMALL.blocks]
    assert [replace(block, expand=0, squeeze=0) for block in found.layers.blocks] == wanted
    assert (found.layers.stem, found.layers.last_conv, found.layers.hidden) == (16, 576, 1024)
    assert [bool(block.squeeze) for block in found.layers.blocks] == [
        bool(block.squeeze) for block in SMALL.blocks
    ]
    assert found.layers.blocks[5] == SMALL.blocks[5]
    assert found.resolution == 64


@pytest.mark.parametrize("variant", ["small", "large"])
def test_every_combination_is_a_network(variant: str, tmp_path: Path) -> None:
    space = Space(variant, (32,))
    for seed in range(60):
        candidate = space.network(drawn(space, seed))
        path = tmp_path / "a.json"
        path.write_text(architecture_text(candidate.layers))
        assert read_architecture_file(path) == candidate.layers
        channels = candidate.layers.stem
        for block in candidate.layers.blocks:
            assert block.expand % 8 == block.out % 8 == block.squeeze % 8 == 0
            assert block.expand >= channels
            channels = block.out


def test_a_network_is_built_with_the_counts_of_its_layers() -> None:
    candidate = SPACE.network({**drawn(SPACE, 3), "resolution": 0})
    model = candidate.build(classes=4)
    assert model.graph.name == candidate.name
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][2:] == [
        32
    ] * 2
    form = Candidate(candidate.layers, 32).form(classes=4)
    assert [node.name for node in form.graph.node] == [node.name for node in model.graph.node]
    assert count(form) == count(model)


def test_the_name_follows_from_the_network_alone() -> None:
    one, other = (SPACE.network(drawn(SPACE, 5)) for _ in range(2))
    assert one.name == other.name
    assert one.name != replace(one, resolution=96 - one.resolution).name
    assert one.name != SPACE.network(drawn(SPACE, 6)).name


def test_an_expansion_by_one_is_none() -> None:
    network = SPACE.network({**middle(), "stage1.expansion": 0})
    assert network.layers.blocks[0].expand == network.layers.stem


def test_stages_are_those_of_the_table() -> None:
    assert [stage.blocks for stage in SPACE.stages] == [1, 2, 3, 2, 3]
    large = Space("large").stages
    assert [stage.blocks for stage in large] == [1, 2, 3, 4, 2, 3]
    assert [stage.stride for stage in large] == [1, 2, 2, 2, 1, 2]
    assert sum(stage.blocks for stage in large) == len(LARGE.blocks)
    assert SPACE.decades > 12


@pytest.mark.parametrize(
    ("variant", "resolutions", "said"),
    [
        ("middle", (32,), "unknown --variant 'middle'; known: large, small"),
        ("small", (), "at least one --resolution"),
        ("small", (32, 33), "--resolution 33 is not supported"),
    ],
)
def test_what_is_no_space_is_refused(
    variant: str, resolutions: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Space(variant, resolutions)


def test_widths_are_in_order_without_doubles() -> None:
    family = width_family("small", 32)
    assert list(family) == sorted(family)
    assert len(set(family.values())) == len(family)
    assert family[0.75].layers == mobilenet_v3("small", 0.75)
    assert {0.35, 0.5, 0.75, 1.0, 1.25} <= set(family)
