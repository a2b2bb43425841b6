"""TopK is comparisons and reductions, with onnxruntime's order to the last tie."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from mbv3c.passes.spell_topk import spell_ranks, spell_topk
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, operators, ports, refuses

INFINITE = (-np.inf, np.inf, 0.0, 0.0, -1.0)


def topk(
    shape: Sequence[int], count: int, dtype: type = np.float32, opset: int = 17, **attributes: int
) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], "best", **attributes)
    made = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [
            helper.make_tensor_value_info("values", kind, None),
            helper.make_tensor_value_info("places", TensorProto.INT64, None),
        ],
        [numpy_helper.from_array(np.array([count]), "k")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def results(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    made = InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[np.ndarray] = made.run(None, {"x": x})
    return outputs


def is_equal(model: onnx.ModelProto, x: np.ndarray) -> list[str]:
    rewritten, report = spell_ranks(model)
    assert report.matched == ("best",)
    assert report.nodes_after == len(rewritten.graph.node)
    onnx.checker.check_model(rewritten, full_check=True)
    assert not spell_ranks(rewritten)[1].changed
    assert ports(rewritten) == ports(model)
    for ours, theirs in zip(results(rewritten, x), results(model, x), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    return operators(rewritten)


@pytest.mark.parametrize("opset", [13, 17, 18, 22])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64])
@pytest.mark.parametrize("largest", [0, 1])
def test_every_axis_and_number(largest: int, dtype: type, opset: int) -> None:
    random = np.random.default_rng(0)
    for shape in ((7,), (3, 20), (2, 18, 3)):
        x = np.floor(random.normal(size=shape) * 2).astype(dtype)  # many are equal
        for axis in range(-1, len(shape)):
            for count in {1, 2, min(17, shape[axis]), shape[axis]}:
                is_equal(topk(shape, count, dtype, opset, axis=axis, largest=largest), x)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_infinite_values_are_values(count: int, largest: int) -> None:
    x = np.random.default_rng(1).choice(np.array(INFINITE, np.float32), (2, 40))
    is_equal(topk((2, 40), count, largest=largest), x)
    is_equal(topk((2, 40), count, largest=largest), np.full((2, 40), -np.inf, np.float32))


def test_the_extremes_of_whole_numbers_are_values() -> None:
    limits = np.iinfo(np.int32)
    x = np.array([[limits.min, limits.min, limits.max, limits.max, 0]], np.int32)
    for largest in (0, 1):
        is_equal(topk((1, 5), 5, np.int32, largest=largest), x)


def test_the_best_one_needs_no_order() -> None:
    model = topk((3, 9), 1, sorted=0)
    x = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    assert is_equal(model, x) == ["ReduceMax", "ArgMax"]


def test_many_need_no_more_nodes_than_some() -> None:
    some, many = (spell_ranks(topk((1, 400), count))[0] for count in (17, 300))
    assert operators(some) == operators(many)


def test_no_stored_constant_grows_with_the_square() -> None:
    rewritten, _ = spell_ranks(topk((1, 1000), 100))
    assert rewritten.ByteSize() < 20_000


def test_one_output_alone() -> None:
    for output in ("float[1, 3] v", "int64[1, 3] i"):
        text = f"g (float[1, 9] x) => ({output}) {{ v, i = TopK <axis = 1> (x, k) }}"
        fires(spell_topk, graph(text, k=np.array([3])))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (topk((1, 9), 3, sorted=0), "it does not sort (sorted 0), and its order is onnxruntime's"),
        (topk((1, 9), 3, np.float16), "it computes in FLOAT16; this pass knows FLOAT, INT32"),
        (topk((80, 3000), 100), "it takes 100 of 3000; of so many, up to 16"),
        (topk((1, 9), 3, opset=11), "what it is made of needs opset 13, the model has 11"),
    ],
)
def test_what_stays(model: onnx.ModelProto, reason: str) -> None:
    assert refuses(spell_ranks, model).startswith(reason)


def test_many_are_left_to_what_lowers_them() -> None:
    ignores(spell_topk, topk((1, 400), 17))
    fires(spell_topk, onnx.shape_inference.infer_shapes(topk((1, 400), 16)))


def test_a_number_that_is_computed_stays() -> None:
    model = graph(
        "g (float[1, 9] x, int64[1] k) => (float[1, N] v, int64[1, N] i) { v, i = TopK (x, k) }"
    )
    assert (
        refuses(spell_topk, model) == "its number, 'k', cannot be computed before the model runs"
    )


def test_a_shape_that_is_open_stays() -> None:
    text = "g (float[N, 9] x) => (float[N, 3] v, int64[N, 3] i) { v, i = TopK (x, k) }"
    assert refuses(spell_topk, graph(text, k=np.array([3]))) == "the shape of 'x' is not fixed"


def test_others_stay() -> None:
    ignores(spell_topk, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
