"""What TVM's operators take over: regions with any inputs, outputs and types."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from mbv3c.errors import ModelError
from mbv3c.lowering.fallback import lower_region
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import HOST, agrees, kinds

IMAGE = ((1, 8, 4, 6), TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("float[1, 3, 4, 6] y, float[1, 5, 4, 6] z", "y, z = Split<axis = 1>(x, parts)"),
        ("float[1, 5, 4, 6] z", "y, z = Split<axis = 1>(x, parts)"),
        ("float[1, 8, 4, 6] y, float[1, 8, 4, 6] z", "y = Exp(x) z = Sqrt(y)"),
        ("float[1, 8, 4, 6] z, float[1, 8, 4, 6] y", "y = Exp(x) z = Sigmoid(y)"),
        ("float[1, 16, 4, 6] y", "e = Exp(x) y = Concat<axis = 1>(x, e)"),
        ("float[1, 8, 4, 6] y, float[192] z", "y = Exp(x) z = Reshape(y, flat)"),
        ("float[1, 8, 4, 6] y, float[1, 8, 4, 6] z", "y = Cast<to = 1>(x) z = Exp(x)"),
        ("float y", "y = ReduceMean<keepdims = 0>(x)"),
    ],
)
def test_a_region(outputs: str, body: str) -> None:
    text = f"g (float[1, 8, 4, 6] x) => ({outputs}) {{ {body} }}"
    model = graph(text, parts=np.array([3, 5]), flat=np.array([192]))
    assert set(kinds(agrees(model))) <= {"fallback", "copy"}


@pytest.mark.parametrize(
    "node",
    [
        "MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)",
        "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
        "AveragePool<kernel_shape = [3, 3], pads = [0, 1, 1, 0], count_include_pad = 1>(x)",
        'Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, "", twice)',
        'Resize<mode = "nearest">(x, "", twice)',
        "Softmax<axis = 1>(x)",
        "Softmax(x)",
        "Concat<axis = 2>(x, x)",
        "Transpose<perm = [0, 3, 1, 2]>(x)",
        "Conv<group = 2, pads = [1, 1, 1, 1], strides = [2, 2]>(x, grouped)",
        "Conv<group = 8, pads = [1, 1, 1, 1]>(x, multiplied)",
        "ReduceMean<axes = [1]>(x)",
        "ReduceMean<axes = [3]>(x)",
        "ReduceMean<axes = [0, 2], keepdims = 0>(x)",
        "ReduceMean(x)",
        "Sigmoid(x)",
        "Pow(x, two)",
        "Exp(x)",
        "Erf(x)",
        "Slice(x, one, minus, channels)",
        "Tanh(x)",
        "ScatterElements<axis = 1>(x, first, zeros)",  # not written in blocks
        "LRN<size = 3>(x)",
        "DepthToSpace<blocksize = 2>(x)",
    ],
)
def test_an_operator(node: str) -> None:
    shape = "a, b" if "keepdims" in node else "a, b, c, d"
    model = graph(
        f"g (float[2, 8, 4, 6] x) => (float[{shape}] y) {{ y = {node} }}",
        twice=np.array([1, 1, 2, 2], np.float32),
        grouped=random(6, 4, 3, 3),
        multiplied=random(16, 1, 3, 3),
        two=np.array(2, np.float32),
        one=np.array([1]),
        minus=np.array([-1]),
        channels=np.array([1]),
        first=np.zeros((1, 1, 4, 6), np.int64),
        zeros=np.zeros((1, 1, 4, 6), np.float32),
    )
    assert set(kinds(agrees(model))) == {"fallback"}


@pytest.mark.parametrize(
    "body",
    [
        "a = ArgMax<axis = 1>(x) y = Cast<to = 1>(a)",
        "a = ArgMax<axis = 1>(x) c = Cast<to = 1>(a) d = Exp(c) y = Relu(d)",
        "g = Greater(m, half) h = Cast<to = 1>(g) y = Relu(h)",
        "g = Greater(m, half) y = Where(g, m, half)",
        # masks that two others read, beside a comparison: TVM loads them as bytes
        "a = Greater(m, half) b = Less(m, one) n = Not(a) k = Not(b) c = And(a, k) d = And(n, b) "
        "o = Or(c, d) p = Not(o) y = Cast<to = 1>(p)",
    ],
)
def test_values_of_other_types_inside(body: str) -> None:
    text = f"""g (float[1, 8, 4, 6] x) => (float[1, 1, 4, 6] y) {{
        m = ReduceMax<axes = [1]>(x)
        {body}
    }}"""
    agrees(graph(text, half=np.array(0.5, np.float32), one=np.array(1, np.float32)))


@pytest.mark.parametrize(
    "body",
    [
        "t = Exp(x) a = Conv(t, w) u = Sqrt(t) y = Add(a, u) z = Relu(t)",
        "a = Conv(x, w) b = HardSwish(x) y = Max(a, b) z = Min(a, b)",
        "a = Conv(x, w) t = Exp(a) z = Identity(t) y = Conv(t, w)",
        "a = Conv(x, w) c = Cast<to = 1>(a) z = Exp(a) y = Add(c, z)",
        "p, q = Split<axis = 1>(x, half) s = Concat<axis = 1>(q, p) y = Conv(s, w) z = Exp(s)",
        "t = Exp(x) u = Exp(t) y = Conv(u, w) z = Conv(t, w)",
        "c = ConstantOfShape<value = float[1] {2.0}>(full) y = Conv(c, w) z = Add(x, c)",
    ],
)
def test_values_go_between_regions_and_our_kernels(body: str) -> None:
    text = f"""g (float[1, 8, 4, 6] x) => (float[1, 8, 4, 6] y, float[1, 8, 4, 6] z) {{
        {body}
    }}"""
    w = random(8, 8, 1, 1, seed=5)
    agrees(graph(text, w=w, half=np.array([4, 4]), full=np.array([1, 8, 4, 6])))


def region(body: str) -> onnx.ModelProto:
    return graph(f"g (float[1, 8, 4, 6] x) => (float[1, 8, 4, 6] y) {{ {body} }}")


def test_its_multiply_adds_are_counted() -> None:
    """A quantized network's are said to be in fp32."""
    text = "g (float[1, 6, 5] x) => (float[1, 4, 5] y) { c = Conv(x, w) y = Erf(c) }"
    (first, *others) = agrees(graph(text, w=random(4, 6, 1))).plan.steps
    assert (first.kind, first.madds) == ("fallback", 4 * 6 * 5)
    assert not any(step.madds for step in others)


def test_an_output_that_is_an_input_is_not_computed() -> None:
    model = region("y = Identity(x)")
    lowered = lower_region(model, model.graph.node, {"x": IMAGE}, {"y": IMAGE}, "new", HOST)
    assert lowered.steps == []
    assert lowered.held == {"y": "x"}


def test_outputs_that_are_one_value_share_it() -> None:
    model = region("a = Exp(x) y = Identity(a)")
    outputs = {"y": IMAGE, "a": IMAGE}
    lowered = lower_region(model, model.graph.node, {"x": IMAGE}, outputs, "new", HOST)
    assert len(lowered.steps) == 1
    assert lowered.held["a"] == lowered.held["y"] == lowered.steps[0].writes[0]


def test_a_constant_output_is_given_as_such() -> None:
    model = graph(
        """g (float[1, 8, 4, 6] x) => (int64[4] s, float[1, 8, 4, 6] y) {
            s = Shape(x)
            y = Exp(x)
        }"""
    )
    outputs = {"s": ((4,), TensorProto.INT64), "y": IMAGE}
    lowered = lower_region(model, model.graph.node, {"x": IMAGE}, outputs, "new", HOST)
    np.testing.assert_array_equal(lowered.held["s"], [1, 8, 4, 6])
    assert lowered.held["y"] == lowered.steps[0].writes[0]


def test_what_tvm_does_not_turn_into_kernels_is_named() -> None:
    model = region("[what] i = NonZero(x) [then] n = Size(i) f = Cast<to = 1>(n) y = Mul(x, f)")
    with pytest.raises(ModelError, match=r"has no kernel for NonZero \(what\); leave it out"):
        lower_region(model, model.graph.node, {"x": IMAGE}, {"y": IMAGE}, "new", HOST)


def test_what_tvm_computes_in_another_type_is_an_error() -> None:
    text = """g (float[1, 8, 4, 6] x) => (float[1, 8, 4, 6] y, bool[1, 8, 4, 6] m) {
        t = Exp(x)
        y, m = Dropout(t)
    }"""
    with pytest.raises(ModelError, match=r"makes float32 .* of 'm', which is bool"):
        agrees(graph(text))


def test_no_kernel_of_a_long_network_names_all_of_it() -> None:
    steps = " ".join(f"[n{i}] t{i + 1} = Neg(t{i})" for i in range(300))
    body = f"t0 = Exp(x) {steps} y = Sigmoid(t300)"
    lowered = agrees(graph(f"g (float[1, 8] x) => (float[1, 8] y) {{ {body} }}"))
    named = [step.nodes for step in lowered.plan.steps]
    assert max(map(len, named)) <= 128
    assert {f"n{i}" for i in range(300)} <= {name for names in named for name in names}


def test_what_has_no_kernel_is_named() -> None:
    model = graph("g (float[1, 4] x) => (int64[2, n] y) { a = Exp(x) [places] y = NonZero(a) }")
    outputs = {"y": ((2, 4), TensorProto.INT64)}
    with pytest.raises(ModelError, match=r"no kernel for NonZero \(places\); leave it out"):
        lower_region(
            model, model.graph.node, {"x": ((1, 4), TensorProto.FLOAT)}, outputs, "r.", HOST
        )
