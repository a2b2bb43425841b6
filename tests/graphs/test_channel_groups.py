"""Which channel counts of a graph depend on one another."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mbv3c.graphs.channel_groups import (
    UntiedError,
    channel_groups,
    distinct_counts,
    extents,
    fitted,
    with_counts,
)
from mbv3c.graphs.count import tensor_shapes
from tests.costs.networks import block


def dims(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def test_what_depends_on_one_another() -> None:
    groups = channel_groups(block(stem=16, expand=32, hidden=24))
    tied = groups.tensors
    assert tied["stem.y"] == tied["project.y"] == tied["sum.y"] == tied["flatten.y"]
    assert tied["expand.y"] == tied["depthwise.relu.y"] == groups.axes["project.weight", 1]
    assert tied["hidden.y"] == groups.axes["classes.weight", 1] == groups.axes["hidden.bias", 0]
    assert len({tied["stem.y"], tied["expand.y"], tied["hidden.y"], tied["classes.y"]}) == 4
    assert groups.fixed == {tied["x"]}
    assert groups.counts[tied["expand.y"]] == 32


def test_other_counts_give_the_network_that_has_them() -> None:
    groups = channel_groups(block(stem=16, expand=32, hidden=24))
    wanted = {groups.tensors["expand.y"]: 48, groups.tensors["hidden.y"]: 8}
    made = with_counts(block(), groups, {**groups.counts, **wanted})
    assert dims(made) == dims(block(expand=48, hidden=8))
    assert tensor_shapes(made)["depthwise.y"] == (1, 48, 16, 16)
    onnx.checker.check_model(made, full_check=True)


def test_distinct_counts_stand_for_their_groups() -> None:
    model = block(stem=16, expand=32, hidden=24)
    groups = channel_groups(model)
    counts = distinct_counts(groups, extents(model))
    free = [count for number, count in counts.items() if number not in groups.fixed]
    assert len(set(free)) == len(free)
    assert not set(free) & set(extents(model))
    template = with_counts(model, groups, counts)
    names = {"stem.y": 8, "expand.y": 72, "hidden.y": 40, "classes.y": 10}
    sizes = {counts[groups.tensors[name]]: count for name, count in names.items()}
    made = fitted(template, sizes)
    assert dims(made) == dims(block(stem=8, expand=72, hidden=40))
    assert tensor_shapes(made)["sum.y"] == (1, 8, 16, 16)
    onnx.checker.check_model(made, full_check=True)


def test_stored_outputs_keep_a_shape() -> None:
    """One that is no weight keeps its own, one that is a weight has the new counts."""
    model = block(hidden=24)
    anchors = numpy_helper.from_array(np.zeros((2, 3), np.float32), "anchors")
    model.graph.initializer.append(anchors)
    for name, shape in (("anchors", (2, 3)), ("hidden.weight", (24, 16))):
        output = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        model.graph.output.append(output)
    groups = channel_groups(model)
    made = with_counts(model, groups, {**groups.counts, groups.tensors["hidden.y"]: 8})
    shapes = tensor_shapes(made)
    assert (shapes["anchors"], shapes["hidden.weight"]) == ((2, 3), (8, 16))
    onnx.checker.check_model(made, full_check=True)


def test_numbers_are_repeated_or_cut() -> None:
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    graph = helper.make_graph([], "none", [], [], [onnx.numpy_helper.from_array(weights, "w")])
    (made,) = fitted(helper.make_model(graph), {3: 4, 2: 1}).graph.initializer
    assert onnx.numpy_helper.to_array(made).tolist() == [[0], [2], [4], [0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = Concat <axis=1> (x, x)", "mixes its channels"),
        ("y = Conv <group=2> (x, w)", "has 2 groups"),
        ("y = Transpose <perm=[0,2,3,1]> (x)", "second axis of 'y' is not its channels alone"),
        ("y = Flatten (x)", "second axis of 'y' is not its channels alone"),
    ],
)
def test_refuses_what_it_does_not_know(text: str, reason: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> one (float[1, 4, 2, 2] x) => (float y) '
        f"<float[4, 2, 1, 1] w = {{{', '.join(['0'] * 8)}}}> {{ {text} }}"
    )
    del model.graph.output[:]
    with pytest.raises(UntiedError, match=reason):
        channel_groups(model)
