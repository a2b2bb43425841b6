"""What lies between two steps, in every spelling, and what is a step."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.graphs.skeleton import ConvGeometry, SkeletonStep, Source, skeleton

CONSTANTS = """
    <float zero = {0}, float one = {1}, float three = {3}, float[1] six = {6},
     float[1,1,1,1] sixth = {0.16666667}>
"""


def steps(text: str, opset: int = 17, **weights: tuple[int, ...]) -> tuple[SkeletonStep, ...]:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return skeleton(model)


@pytest.mark.parametrize(
    ("body", "opset", "activation"),
    [
        ("b = Identity(a)", 17, "none"),
        ("b = Relu(a)", 17, "relu"),
        ("b = Max(a, zero)", 17, "relu"),
        ("b = Clip(a, zero)", 17, "relu"),
        ("b = Clip(a, zero, six)", 17, "relu6"),
        ("b = Clip <min = 0.0, max = 6.0> (a)", 6, "relu6"),
        ("c = Max(zero, a) b = Min(six, c)", 17, "relu6"),
        ("b = HardSwish(a)", 17, "hardswish"),
        ("h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) b = Mul(h, a)", 17, "hardswish"),
        (
            "p = Add(three, a) c = Clip(p, zero, six) m = Mul(c, a) b = Div(m, six)",
            17,
            "hardswish",
        ),
        (
            "p = Add(a, three) c = Clip(p, zero, six) d = Mul(sixth, c) b = Mul(a, d)",
            17,
            "hardswish",
        ),
        ("p = Add(a, three) c = Clip(p, zero, six) b = Div(c, six)", 17, "hardsigmoid"),
        ("b = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a)", 17, "hardsigmoid"),
        ("b = Clip(a, zero, one)", 17, "hardsigmoid"),
        ("b = Sigmoid(a)", 17, "sigmoid"),
        ("s = Sigmoid(a) b = Mul(a, s)", 17, "swish"),
        ("b = HardSigmoid(a)", 17, "unknown"),
        ("p = Add(a, one) c = Clip(p, zero, six) m = Mul(c, a) b = Div(m, six)", 17, "unknown"),
        (
            "p = Add(a, three) c = Clip(p, zero, three) m = Mul(c, a) b = Div(m, six)",
            17,
            "unknown",
        ),
        ("b = Mul(a, a)", 17, "unknown"),
    ],
)
def test_activations(body: str, opset: int, activation: str) -> None:
    _, first, second = steps(
        f"""
        g (float[1,4,8,8] x) => (float[1,4,8,8] y) {CONSTANTS} {{
            a = Conv(x, w)
            {body}
            y = Conv(b, w)
        }}
        """,
        opset,
        w=(4, 4, 1, 1),
    )
    assert first.sources == (Source(0, "none"),)
    assert second.sources == (Source(1, activation),)


def test_geometry_and_what_does_not_matter() -> None:
    """BatchNormalization, Pad and Transpose are no steps."""
    found = steps(
        """
        g (float[1,9,9,4] x) => (float[1,4,5,5] y) {
            pads = Constant <value = int64[8] {0, 0, 2, 2, 0, 0, 2, 2}> ()
            t = Transpose <perm = [0, 3, 1, 2]> (x)
            p = Pad(t, pads)
            a = Conv <group = 4, strides = [2, 2], dilations = [2, 2]> (p, w)
            y = BatchNormalization(a, s, s, s, s)
        }
        """,
        w=(4, 1, 3, 3),
        s=(4,),
    )
    wanted = ConvGeometry(4, 4, kernel=3, stride=2, dilation=2, groups=4)
    assert found == (
        SkeletonStep("input", "x"),
        SkeletonStep("conv", "a", (Source(0, "none"),), wanted),
    )


def test_dense_layers_and_their_separate_bias() -> None:
    found = steps(
        """
        g (float[2,8] x) => (float[2,3] y) {
            a = MatMul(x, w)
            b = Add(bias, a)
            c = Relu(b)
            y = Gemm <transB = 1> (c, v)
        }
        """,
        w=(8, 5),
        bias=(5,),
        v=(3, 5),
    )
    assert [step.conv for step in found[1:]] == [ConvGeometry(8, 5), ConvGeometry(5, 3)]
    assert found[2].sources == (Source(1, "relu"),)


def test_sums_products_and_pools_are_steps() -> None:
    found = steps(
        """
        g (float[1,4,8,8] x) => (float[1,8,8,8] y) {
            a = Conv(x, w)
            r = Relu(a)
            p = GlobalAveragePool(r)
            c = Conv(p, w)
            h = Sigmoid(c)
            m = Mul(h, r)
            s = Add(x, m)
            y = Concat <axis = 1> (s, x)
        }
        """,
        w=(4, 4, 1, 1),
    )
    assert [step.kind for step in found] == [
        *("input", "conv", "pool", "conv", "mul", "add", "Concat"),
    ]
    assert found[4].sources == (Source(3, "sigmoid"), Source(1, "relu"))
    assert found[5].sources == (Source(0, "none"), Source(4, "none"))


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        ("GlobalAveragePool(x)", "pool"),
        ("ReduceMean <axes = [2, 3]> (x)", "pool"),
        ("ReduceMean <axes = [-1, -2], keepdims = 0> (x)", "pool"),
        ("AveragePool <kernel_shape = [8, 6]> (x)", "pool"),
        ("ReduceMean <axes = [1]> (x)", "ReduceMean"),
        ("AveragePool <kernel_shape = [2, 2]> (x)", "AveragePool"),
        ("GlobalMaxPool(x)", "GlobalMaxPool"),
    ],
)
def test_only_a_mean_over_the_whole_map_is_a_pool(pool: str, kind: str) -> None:
    found = steps(f"g (float[2,4,8,6] x) => (y) {{ p = {pool} y = Relu(p) }}")
    assert found[1].kind == kind
