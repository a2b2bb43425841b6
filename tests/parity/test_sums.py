"""Sums in float64 against onnxruntime, and their rounding against sums in fp32 in other orders."""

import numpy as np
import onnx
import pytest
from onnx import helper

from mbv3c.parity.reference import run, session
from mbv3c.parity.sums import SUMS, NotASumError, sum_of

RNG = np.random.default_rng(0)

MAP, WEIGHTS = (2, 4, 7, 6), (6, 2, 3, 2)
CASES: list[tuple[str, tuple[tuple[int, ...], ...], dict[str, object]]] = [
    ("Conv", (MAP, (5, 4, 3, 3), (5,)), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", (MAP, WEIGHTS), {"group": 2, "dilations": [2, 1]}),
    ("Conv", (MAP, (4, 1, 3, 3)), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (MAP, (4, 1, 2, 2)), {"group": 4, "auto_pad": "SAME_LOWER"}),
    ("Conv", ((1, 3, 9), (2, 3, 4)), {"auto_pad": "VALID"}),
    ("ConvTranspose", (MAP, (4, 3, 3, 2), (3,)), {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    (
        "ConvTranspose",
        (MAP, (4, 2, 2, 2)),
        {"group": 2, "output_padding": [1, 0], "strides": [2, 1]},
    ),
    ("AveragePool", (MAP,), {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "strides": [2, 1]}),
    ("AveragePool", (MAP,), {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("GlobalAveragePool", (MAP,), {}),
    ("ReduceMean", (MAP,), {"axes": [-1, 1], "keepdims": 0}),
    ("ReduceMean", (MAP,), {}),
    ("MatMul", ((2, 3, 5), (5, 4)), {}),
    ("Gemm", ((5, 3), (4, 5), (4,)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("BatchNormalization", (MAP, (4,), (4,), (4,), (4,)), {"epsilon": 1e-3}),
]


@pytest.mark.parametrize(("operator", "shapes", "attributes"), CASES)
def test_is_what_onnxruntime_computes(
    operator: str, shapes: tuple[tuple[int, ...], ...], attributes: dict[str, object]
) -> None:
    names = [f"x{index}" for index in range(len(shapes))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    arrays = [np.abs(RNG.standard_normal(shape)).astype(np.float32) for shape in shapes]
    given = [helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=True)]
    graph = helper.make_graph([node], "g", given, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (wanted,) = run(session(model), tuple(arrays))
    y, deviation = sum_of(node, [x.astype(np.float64) for x in arrays], rounded=True)
    np.testing.assert_allclose(y, wanted, rtol=3e-6, atol=1e-6)
    assert y.shape == wanted.shape
    assert deviation is not None
    assert deviation.shape == y.shape
    # onnxruntime's own error is of that size: neither far above nor nothing beside it.
    errors = np.abs(wanted - y)
    assert errors.max() < 6 * deviation.max()
    assert (deviation < 1e-5 * np.abs(y).max()).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_rounding_of_a_sum_is_that_of_random_orders(offset: float) -> None:
    """Terms that cancel, or hardly: what fp32 loses by adding them up in 300 orders."""
    terms = RNG.standard_normal(64).astype(np.float32)
    terms[:32] += np.float32(offset)
    terms[32:] -= np.float32(offset)
    exact = terms.astype(np.float64).sum()
    errors = []
    for _ in range(300):
        total = np.float32(0)
        for term in RNG.permutation(terms):
            total = np.float32(total + term)
        errors.append(float(total) - exact)
    _, deviation = sum_of(
        helper.make_node("MatMul", ["a", "b"], ["y"]),
        [terms.astype(np.float64)[None], np.ones((64, 1))],
        rounded=True,
    )
    assert deviation is not None
    assert 0.5 < deviation.item() / float(np.std(errors)) < 3


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "ceil_mode": 1}),
        ("ConvTranspose", {"output_shape": [9, 9]}),
    ],
)
def test_what_it_does_not_know_it_does_not_guess(
    operator: str, attributes: dict[str, object]
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    inputs = [np.ones((1, 4, 5, 5)), np.ones((4, 2, 3, 3))][: 1 + (operator != "AveragePool")]
    with pytest.raises(NotASumError):
        sum_of(node, inputs, rounded=False)


def test_every_sum_has_a_case() -> None:
    assert SUMS.keys() - {operator for operator, _, _ in CASES} == {"ReduceSum"}
