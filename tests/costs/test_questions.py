"""What a question about costs is known by."""

from mbv3c.costs.blocks import blocks_of
from mbv3c.costs.drawing import drawn
from mbv3c.costs.questions import Question
from tests.costs.networks import block


def test_weights_do_not_matter() -> None:
    assert Question(block(seed=1)).digest == Question(block(seed=2)).digest


def test_channels_matter_to_the_digest_and_not_to_the_structure() -> None:
    one, other = Question(block(expand=32)), Question(block(expand=40, hidden=8))
    assert one.digest != other.digest
    assert one.structure == other.structure


def test_kernels_matter_to_both() -> None:
    one, other = Question(block(kernel=3)), Question(block(kernel=5))
    assert one.structure != other.structure
    assert one.digest != other.digest


def test_counts_need_no_weights() -> None:
    question = Question(block(stem=16, expand=32, hidden=24))
    assert question.counts.params == sum(
        (outputs * inputs + outputs)
        for outputs, inputs in ((16, 27), (32, 16), (32, 9), (16, 32), (24, 16), (10, 24))
    )


def test_drawn_weights_depend_on_names_only() -> None:
    one, other = (drawn(block(seed=seed)).graph.initializer for seed in (1, 2))
    weights = [(a, b) for a, b in zip(one, other, strict=True) if a.name.endswith("weight")]
    assert weights
    assert all(a == b for a, b in weights)


def test_blocks_are_read_off_the_graph() -> None:
    places = blocks_of(Question(block()))
    assert places["stem"] == places["stem.relu"] == "stem"
    inside = ("expand", "depthwise", "depthwise.relu", "project", "sum")
    assert {places[name] for name in inside} == {"block 1"}
    assert places["pool"] == places["classes"] == "head"
