"""Blocks as exporters spell them end as the operators that our own graphs end as.

The spellings are those of torch's two exporters, tf2onnx and Keras, written by hand: what none of
these tools has to be installed for.
"""

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriting import error, graph, operators
from test_pipeline import TOLERANCE, optimized

SIXTH = "0.16666667"
# One block of ours after the rewrites: depthwise, hard-swish, squeeze-and-excite, projection,
# residual, and the classifier behind it.
CANONICAL = Counter(
    Conv=4, HardSwish=2, GlobalAveragePool=2, Relu=1, Clip=1, Mul=1, Add=1, Flatten=1, Gemm=2
)

# Each piece computes {y} from {x}; {p} makes its tensors' names its own.
HARDSWISHES = {
    "one operator": "{y} = HardSwish({x})",
    "x · HardSigmoid": "{p}s = HardSigmoid <alpha = 0.16666667> ({x}) {y} = Mul({x}, {p}s)",
    "x · relu6(x + 3) / 6": (
        "{p}a = Add({x}, three) {p}c = Clip({p}a, zero, six) "
        "{p}m = Mul({x}, {p}c) {y} = Div({p}m, six)"
    ),
    "x · (relu6(x + 3) · 1/6), Min and Max": (
        "{p}a = Add(three, {x}) {p}b = Max({p}a, zero) {p}c = Min(six, {p}b) "
        "{p}m = Mul({p}c, sixth) {y} = Mul({p}m, {x})"
    ),
    "x · relu6(x + 3) · 1/6, Relu and Min": (
        "{p}a = Add({x}, three) {p}b = Relu({p}a) {p}c = Min({p}b, six) "
        "{p}m = Mul({p}c, {x}) {y} = Mul(sixth, {p}m)"
    ),
    "x · 1/6 · relu6(x + 3)": (
        "{p}d = Mul({x}, sixth) {p}a = Add({x}, three) {p}c = Clip({p}a, zero, six) "
        "{y} = Mul({p}d, {p}c)"
    ),
    "x / 6 · relu6(x + 3)": (
        "{p}d = Div({x}, six) {p}a = Add({x}, three) {p}c = Clip({p}a, zero, six) "
        "{y} = Mul({p}c, {p}d)"
    ),
    "x · clip(x / 6 + 1/2)": (
        "{p}d = Div({x}, six) {p}a = Add({p}d, half) {p}c = Clip({p}a, zero, one) "
        "{y} = Mul({x}, {p}c)"
    ),
}
GATES = {
    "HardSigmoid": "{y} = HardSigmoid <alpha = 0.16666667> ({x})",
    "relu6(x + 3) / 6": (
        "{p}a = Add({x}, three) {p}c = Clip({p}a, zero, six) {y} = Div({p}c, six)"
    ),
    "relu6(x + 3) · 1/6, Min and Max": (
        "{p}a = Add({x}, three) {p}b = Min({p}a, six) {p}c = Max({p}b, zero) "
        "{y} = Mul({p}c, sixth)"
    ),
}
SQUEEZES = {
    "Conv after GlobalAveragePool": (
        "s0 = GlobalAveragePool(d) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) s3 = Conv(s2, w2c, b2)",
        "",
    ),
    "Conv after ReduceMean": (
        "s0 = ReduceMean <axes = [-1, -2]> (d) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) "
        "s3 = Conv(s2, w2c, b2)",
        "",
    ),
    "Gemm between Flatten and Reshape": (
        "s = GlobalAveragePool(d) s0 = Flatten(s) s1 = Gemm <transB = 1> (s0, w1, b1) "
        "s2 = Relu(s1) s3 = Gemm <transB = 1> (s2, w2, b2)",
        "g1 = Reshape(g, pixel)",
    ),
    "MatMul after ReduceMean without keepdims": (
        "s0 = ReduceMean <axes = [2, 3], keepdims = 0> (d) m1 = MatMul(s0, w1t) "
        "s1 = Add(b1, m1) s2 = Relu(s1) m2 = MatMul(s2, w2t) s3 = Add(m2, b2)",
        "g1 = Unsqueeze(g, two_three)",
    ),
    "AveragePool over the map, Squeeze, Unsqueeze": (
        "s = AveragePool <kernel_shape = [6, 6]> (d) s0 = Squeeze(s, two_three) "
        "s1 = Gemm <transB = 1> (s0, w1, b1) s2 = Relu(s1) s3 = Gemm(s2, w2t, b2)",
        "g0 = Unsqueeze(g, two) g1 = Unsqueeze(g0, three_i)",
    ),
    "NHWC, Reshape": (
        "t = Transpose <perm = [0, 2, 3, 1]> (d) s = ReduceMean <axes = [1, 2], keepdims = 0> (t) "
        "s00 = Reshape(s, pixel_nhwc) s0 = Transpose <perm = [0, 3, 1, 2]> (s00) "
        "s1 = Conv(s0, w1c, b1) s2 = Relu(s1) s3 = Conv(s2, w2c, b2)",
        "g0 = Transpose <perm = [0, 2, 3, 1]> (g) m = Mul(g0, t) "
        "e = Transpose <perm = [0, 3, 1, 2]> (m)",
    ),
    "NHWC": (
        "t = Transpose <perm = [0, 2, 3, 1]> (d) s = ReduceMean <axes = [1, 2]> (t) "
        "s0 = Transpose <perm = [0, 3, 1, 2]> (s) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) "
        "s3 = Conv(s2, w2c, b2)",
        "g0 = Transpose <perm = [0, 2, 3, 1]> (g) m = Mul(t, g0) "
        "e = Transpose <perm = [0, 3, 1, 2]> (m)",
    ),
}
PADDINGS = {
    "of the Conv": "c = Conv <group = 4, pads = [1, 1, 1, 1]> (x, wd, bd)",
    "Pad": "p = Pad(x, pads) c = Conv <group = 4> (p, wd, bd)",
    "Pad in NHWC": (
        "t0 = Transpose <perm = [0, 2, 3, 1]> (x) p0 = Pad(t0, pads_nhwc) "
        "p = Transpose <perm = [0, 3, 1, 2]> (p0) c = Conv <group = 4> (p, wd, bd)"
    ),
    "Pad, and Mul and Add": (
        "p = Pad(x, pads, zero) c0 = Conv <group = 4> (p, wd) c1 = Mul(c0, ones) c = Add(c1, bdc)"
    ),
    "BatchNormalization": (
        "c0 = Conv <group = 4, pads = [1, 1, 1, 1]> (x, wd) "
        "c = BatchNormalization(c0, bn, bd, bn0, bn)"
    ),
}
HEADS = {
    "Flatten": "q = GlobalAveragePool(r) f = Flatten(q)",
    "Reshape": "q = GlobalAveragePool(r) f = Reshape(q, rest)",
    "Squeeze": "q = GlobalAveragePool(r) f = Squeeze(q, two_three)",
    "mean": "f = ReduceMean <axes = [2, 3], keepdims = 0> (r)",
    "Shape, Gather, Concat": (
        "q = GlobalAveragePool(r) n0 = Shape(q) n1 = Gather(n0, first) "
        "n2 = Unsqueeze(n1, first_i) n3 = Concat <axis = 0> (n2, minus) f = Reshape(q, n3)"
    ),
    "NHWC": (
        "q0 = Transpose <perm = [0, 2, 3, 1]> (r) "
        "f = ReduceMean <axes = [1, 2], keepdims = 0> (q0)"
    ),
}


def block(
    swish: str = "one operator",
    gate: str = "HardSigmoid",
    squeeze: str = "Conv after GlobalAveragePool",
    padding: str = "of the Conv",
    head: str = "Flatten",
    rank: int = 0,
    dropped: str = "f1 = Dropout(h1) f2 = Identity(f1)",
) -> onnx.ModelProto:
    """Return a block of MobileNetV3 and a classifier in these spellings."""
    before, after = SQUEEZES[squeeze]
    scale = after if "Mul(" in after else f"{after} e = Mul(d, {'g1' if after else 'g'})"
    body = [
        PADDINGS[padding],
        HARDSWISHES[swish].format(x="c", y="d", p="d"),
        before,
        GATES[gate].format(x="s3", y="g", p="g"),
        scale,
        "o = Conv(e, wp, bd) r = Add(x, o)",
        HEADS[head],
        "h0 = Gemm <transB = 1> (f, wh, bh)",
        HARDSWISHES[swish].format(x="h0", y="h1", p="h"),
        dropped,
        "n = MatMul(f2, wl) y = Add(n, bl)",
    ]
    text = f"g (float[1, 4, 6, 6] x) => (float[1, 3] y) {{ {' '.join(body)} }}"
    model = graph(text, 17, **parameters(rank))
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def parameters(rank: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((8, 4)), rng.standard_normal((4, 8))
    scalars = {"three": 3, "half": 0.5, "sixth": float(SIXTH)}
    bounds = {"zero": 0, "one": 1, "six": 6}
    floats = {
        "w1": w1,
        "w2": w2,
        "w1t": w1.T,
        "w2t": w2.T,
        "w1c": w1[..., None, None],
        "w2c": w2[..., None, None],
        "b1": rng.standard_normal(8),
        "b2": rng.standard_normal(4),
        "wd": rng.standard_normal((4, 1, 3, 3)),
        "wp": rng.standard_normal((4, 4, 1, 1)),
        "wh": rng.standard_normal((5, 4)),
        "wl": rng.standard_normal((5, 3)),
        "bd": rng.standard_normal(4),
        "bh": rng.standard_normal(5),
        "bl": rng.standard_normal(3),
        "bn": rng.uniform(0.5, 1.5, 4),
        "bn0": np.zeros(4),
        "ones": np.ones((1, 4, 1, 1)),
        **{name: np.full((1,) * min(rank, 2), number) for name, number in scalars.items()},
        **{name: np.array(number) for name, number in bounds.items()},
    }
    floats["bdc"] = floats["bd"].reshape(4, 1, 1)
    integers = {
        "pads": [0, 0, 1, 1, 0, 0, 1, 1],
        "pixel": [1, -1, 1, 1],
        "pixel_nhwc": [-1, 1, 1, 4],
        "pads_nhwc": [0, 1, 1, 0, 0, 1, 1, 0],
        "rest": [1, -1],
        "two_three": [2, 3],
        "two": [2],
        "three_i": [3],
        "first": 0,
        "first_i": [0],
        "minus": [-1],
    }
    arrays = {name: np.asarray(array, np.float32) for name, array in floats.items()}
    return arrays | {name: np.array(array, np.int64) for name, array in integers.items()}


def ends_canonical(model: onnx.ModelProto) -> None:
    """Optimize a block and compare: operators, numbers, and that a second time does nothing."""
    rewritten, reports = optimized(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert Counter(operators(rewritten)) == CANONICAL
    assert [refusal for report in reports for refusal in report.refused] == []
    assert error(model, rewritten) <= TOLERANCE
    again, _ = optimized(rewritten)
    assert again is rewritten


@pytest.mark.parametrize("swish", HARDSWISHES)
def test_hardswish(swish: str) -> None:
    ends_canonical(block(swish=swish))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_squeeze_and_excite(squeeze: str, gate: str) -> None:
    ends_canonical(block(squeeze=squeeze, gate=gate))


@pytest.mark.parametrize("padding", PADDINGS)
def test_depthwise(padding: str) -> None:
    ends_canonical(block(padding=padding))


@pytest.mark.parametrize("head", HEADS)
def test_head(head: str) -> None:
    ends_canonical(block(head=head))


@settings(max_examples=30, deadline=None)
@given(
    swish=st.sampled_from(sorted(HARDSWISHES)),
    gate=st.sampled_from(sorted(GATES)),
    squeeze=st.sampled_from(sorted(SQUEEZES)),
    padding=st.sampled_from(sorted(PADDINGS)),
    head=st.sampled_from(sorted(HEADS)),
    rank=st.integers(0, 2),
)
def test_any_mixture(
    swish: str, gate: str, squeeze: str, padding: str, head: str, rank: int
) -> None:
    ends_canonical(block(swish, gate, squeeze, padding, head, rank))


def test_old_operator_sets() -> None:
    """Clip, Pad and Unsqueeze with attributes, as opset 9 has them."""
    model = graph(
        """
        g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) <float[1] three = {3}, float six = {6}> {
            p = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (x)
            c = Conv <group = 4> (p, wd, bd)
            a = Add(c, three)
            b = Clip <min = 0.0, max = 6.0> (a)
            m = Mul(c, b)
            y = Div(m, six)
        }
        """,
        9,
        **{name: parameters(0)[name] for name in ("wd", "bd")},
    )
    rewritten, _ = optimized(model)
    assert operators(rewritten) == ["Conv", "HardSwish"]
    assert error(model, rewritten) <= TOLERANCE


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_a_sigmoid_gate_ends_in_the_same_place(squeeze: str) -> None:
    model = block(squeeze=squeeze)
    gate = next(node for node in model.graph.node if node.output[0] == "g")
    gate.op_type = "Sigmoid"
    del gate.attribute[:]
    rewritten, _ = optimized(model)
    assert Counter(operators(rewritten)) == CANONICAL - Counter(Clip=1) + Counter(Sigmoid=1)
    assert error(model, rewritten) <= TOLERANCE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"three": 2.9}, "Add's constant must be 3, got 2.9"),
        ({"six": 4}, "Clip's maximum must be 6, got 4"),
        ({"zero": -1}, "Clip's minimum must be 0, got -1"),
    ],
)
def test_a_near_miss_is_refused(change: dict[str, float], reason: str) -> None:
    model = block(swish="x · relu6(x + 3) / 6")
    for tensor in model.graph.initializer:
        if tensor.name in change:
            number = np.array(change[tensor.name], np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(number, tensor.name))
    rewritten, reports = optimized(model)
    assert "HardSwish" not in operators(rewritten)
    assert reason in {refusal.reason for report in reports for refusal in report.refused}
    assert error(model, rewritten) <= TOLERANCE


def test_a_gate_over_the_wrong_axes_is_refused() -> None:
    text = """
        g (float[1, 6, 6, 6] x) => (float[1, 6, 6, 6] y) {
            p = ReduceMean <axes = [1, 2]> (x)
            g = HardSigmoid(p)
            y = Mul(x, g)
        }
    """
    model = graph(text)
    rewritten, reports = optimized(model)
    assert rewritten is model
    reasons = [refusal.reason for report in reports for refusal in report.refused]
    assert reasons == ["ReduceMean must be over axes 2 and 3, got [1, 2]"]


@settings(max_examples=30, deadline=None)
@given(
    addend=st.sampled_from([3, 2.9, 1]),
    low=st.sampled_from([0, -1, 1]),
    high=st.sampled_from([6, 4]),
    divisor=st.sampled_from([6, 5, 3]),
    minmax=st.booleans(),
    first=st.booleans(),
    outputs=st.booleans(),
)
def test_only_the_right_constants_make_a_hardswish(
    addend: float,
    low: float,
    high: float,
    divisor: float,
    minmax: bool,
    first: bool,
    outputs: bool,
) -> None:
    clip = "b = Max(a, low) c = Min(high, b)" if minmax else "c = Clip(a, low, high)"
    scale = "m = Div(x, divisor) y = Mul(m, c)" if first else "m = Mul(c, x) y = Div(m, divisor)"
    also = ", float[1, 4, 3, 3] m" if outputs else ""
    numbers = {"addend": addend, "low": low, "high": high, "divisor": divisor}
    model = graph(
        f"""
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y{also}) {{
            a = Add(addend, x) {clip} {scale}
        }}
        """,
        **{name: np.array(number, np.float32) for name, number in numbers.items()},
    )
    rewritten, reports = optimized(model)
    right = tuple(numbers.values()) == (3, 0, 6, 6) and not outputs
    assert ("HardSwish" in operators(rewritten)) is right
    assert any(report.refused for report in reports) is not right
    assert error(model, rewritten) <= TOLERANCE
