"""Which kernels take which nodes, and that the whole computes what onnxruntime computes."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.precision import FP16
from mbv3c.targets.cpu.kernels import select
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import HOST, NEON, agrees, kinds, lower


def pair(inputs: int = 8, outputs: int = 8, side: int = 1) -> np.ndarray:
    return random(outputs, inputs, side, side, seed=5)


SQUEEZE_EXCITE = {
    "w1": random(4, 8, 1, 1, seed=1),
    "b1": random(4, seed=2),
    "w2": random(8, 4, 1, 1, seed=3),
    "b2": random(8, seed=4),
}


def branch(x: str, y: str, prefix: str = "") -> str:
    """Return the text of a squeeze-and-excitation branch."""
    s, r, q, e, g = (f"{prefix}{name}" for name in "srqeg")
    return f"""
        {s} = GlobalAveragePool({x})
        {r} = Conv({s}, w1, b1)
        {q} = Relu({r})
        {e} = Conv({q}, w2, b2)
        {g} = HardSigmoid<alpha = 0.25>({e})
        {y} = Mul({x}, {g})
    """


def without_transposes(model: onnx.ModelProto) -> list[str]:
    """Check a graph's result; return its kernels but for changes of layout."""
    return [kind for kind in kinds(agrees(model)) if kind != "transpose"]


# ---- convolutions ----


@pytest.mark.parametrize(
    ("node", "weights", "kind"),
    [
        ("Conv(x, w)", (8, 3, 1, 1), "pointwise"),
        ("Conv<strides = [2, 2]>(x, w)", (8, 3, 1, 1), "convolution"),
        ("Conv<pads = [1, 1, 1, 1]>(x, w)", (8, 3, 1, 1), "convolution"),
        ("Conv<pads = [0, 1, 0, 1]>(x, w)", (8, 3, 1, 3), "convolution"),
        ("Conv<pads = [1, 2, 0, 1], dilations = [1, 2]>(x, w)", (8, 3, 3, 3), "convolution"),
        ("Conv<group = 3, pads = [2, 2, 2, 2]>(x, w)", (3, 1, 5, 5), "depthwise"),
        ("Conv<group = 3>(x, w)", (6, 1, 3, 3), "fallback"),
        ('Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)', (8, 3, 3, 3), "fallback"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution(node: str, weights: tuple[int, ...], kind: str, batch: int) -> None:
    model = graph(
        f"g (float[{batch}, 3, 7, 9] x) => (float[a, b, c, d] y) {{ y = {node} }}",
        w=random(*weights),
    )
    assert kind in without_transposes(model)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [((1, 4, 9), (6, 4, 3)), ((1, 2, 5, 5, 5), (4, 2, 3, 3, 3))],
    ids=["1d", "3d"],
)
def test_a_convolution_of_another_rank_falls_back(
    shape: tuple[int, ...], weights: tuple[int, ...]
) -> None:
    dims = ", ".join("abcde"[: len(shape)])
    text = f"g (float{list(shape)} x) => (float[{dims}] y) {{ y = Conv(x, w) }}"
    assert without_transposes(graph(text, w=random(*weights))) == ["fallback"]


def test_a_convolution_with_a_nameless_bias() -> None:
    model = graph("g (float[1, 3, 4, 4] x) => (float[1, 8, 4, 4] y) { y = Conv(x, w) }", w=pair(3))
    model.graph.node[0].input.append("")
    assert without_transposes(model) == ["pointwise"]


def test_a_convolution_with_computed_weights_falls_back() -> None:
    text = "g (float[4, 3, 3, 3] x) => (float[1, 4, 2, 2] y) { y = Conv(image, x) }"
    assert without_transposes(graph(text, image=random(1, 3, 4, 4))) == ["fallback"]


def test_a_convolution_of_a_constant_is_constant() -> None:
    text = """g (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y, float[1, 8, 2, 2] c) {
        c = Conv(image, w)
        y = Add(x, c)
    }"""
    model = graph(text, image=random(1, 3, 2, 2), w=pair(3))
    assert set(without_transposes(model)) == {"fallback", "copy"}


@pytest.mark.parametrize(
    "activation",
    [
        "Relu(a)",
        "HardSwish(a)",
        "HardSigmoid(a)",
        "HardSigmoid<alpha = 0.3, beta = 0.1>(a)",
        "Clip(a)",
        "Clip(a, low)",
        'Clip(a, "", high)',
        "Clip(a, low, high)",
        "Clip(a, high, low)",  # crossed: all values are the upper bound
    ],
)
@pytest.mark.parametrize("node", ["Conv(x, w)", "Conv<pads = [1, 1, 1, 1]>(x, v)"])
def test_a_convolution_takes_its_activation_along(node: str, activation: str) -> None:
    model = graph(
        f"""g (float[1, 3, 4, 4] x) => (float[1, 8, 4, 4] y) {{
            a = {node}
            y = {activation}
        }}""",
        w=pair(3),
        v=pair(3, side=3),
        low=np.array(-0.25, np.float32),
        high=np.array(0.5, np.float32),
    )
    assert len(without_transposes(model)) == 1


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        ("float[1, 8, 4, 4] y, float[1, 8, 4, 4] a", ""),
        ("float[1, 8, 4, 4] y, float[1, 8, 4, 4] z", "z = HardSwish(a)"),
    ],
    ids=["output", "used twice"],
)
def test_a_convolution_leaves_an_activation_of_a_value_that_others_want(
    outputs: str, more: str
) -> None:
    model = graph(
        f"g (float[1, 3, 4, 4] x) => ({outputs}) {{ a = Conv(x, w) y = Relu(a) {more} }}",
        w=pair(3),
    )
    assert without_transposes(model)[:2] == ["pointwise", "elementwise"]


def test_a_clip_with_bounds_as_attributes_falls_back() -> None:
    text = "g (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y) { y = Clip<max = 0.2>(x) }"
    assert without_transposes(graph(text, opset=6)) == ["fallback"]


def test_a_clip_with_computed_bounds_falls_back() -> None:
    text = """g (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y) {
        m = ReduceMean<keepdims = 0>(x)
        y = Clip(x, m)
    }"""
    assert "elementwise" not in without_transposes(graph(text))


# ---- residual sums ----

RESIDUAL = "g (float[2, 8, 3, 5] x) => (float[2, 8, 3, 5] y) {{ {} }}"


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) y = Add(c, x)",
        "c = Conv(x, w) y = Add(x, c)",
        "r = HardSwish(x) c = Conv(x, w) y = Add(c, r)",
        "c = Conv(x, w) a = Relu(c) y = Add(a, x)",
        "r = Exp(x) q = Conv(r, w) c = Conv(q, w) y = Add(c, r)",  # from the fallback
    ],
)
def test_a_convolution_takes_the_sum_along(body: str) -> None:
    found = without_transposes(graph(RESIDUAL.format(body), w=pair()))
    assert found[-1] == "pointwise"


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) d = HardSwish(x) y = Add(c, d)",  # comes later
        "c = Conv(x, w) d = Exp(x) y = Add(c, d)",
        "c = Conv(x, w) y = Add(c, c)",
        "c = Conv(x, w) m = GlobalAveragePool(x) y = Add(c, m)",  # another shape
        "c = Conv(x, w) y = Add(c, k)",
        "c = Conv(x, w) d = Add(c, x) y = Mul(d, c)",
        "c = Conv(x, w) y = Mul(c, x)",
    ],
)
def test_a_convolution_leaves_the_sum(body: str) -> None:
    model = graph(RESIDUAL.format(body), w=pair(), k=random(1, 8, 1, 1))
    found = without_transposes(model)
    assert found[-1] in ("elementwise", "fallback")


def test_a_sum_that_widens_the_convolution_is_left() -> None:
    text = """g (float[1, 8, 1, 1] x) => (float[1, 8, 1, 1] y) {
        c = Conv(x, w)
        y = Add(c, x)
    }"""
    assert without_transposes(graph(text, w=pair(8, 1))) == ["pointwise", "fallback"]


# ---- matrix products ----


@pytest.mark.parametrize(
    ("node", "bias"),
    [
        ("Gemm(x, w)", ()),
        ("Gemm(x, w, b)", (7,)),
        ("Gemm(x, w, b)", (1, 7)),
        ("Gemm(x, w, b)", (1,)),
        ("Gemm(x, w, b)", ()),
        ("Gemm<transB = 1>(x, v, b)", (7,)),
        ("MatMul(x, w)", ()),
    ],
)
def test_a_matrix_product(node: str, bias: tuple[int, ...]) -> None:
    text = f"g (float[3, 5] x) => (float[3, 7] y) {{ a = {node} y = HardSwish(a) }}"
    model = graph(text, w=random(5, 7), v=random(7, 5), b=random(*bias))
    assert without_transposes(model) == ["pointwise"]


def test_a_matrix_product_with_a_nameless_bias() -> None:
    model = graph("g (float[3, 5] x) => (float[3, 7] y) { y = Gemm(x, w) }", w=random(5, 7))
    model.graph.node[0].input.append("")
    assert without_transposes(model) == ["pointwise"]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_a_matrix_product_of_another_rank(shape: tuple[int, ...]) -> None:
    dims = ", ".join("abc"[: len(shape)])
    text = f"g (float{list(shape)} x) => (float[{dims}] y) {{ a = MatMul(x, w) y = Add(x, a) }}"
    assert without_transposes(graph(text, w=random(5, 5))) == ["pointwise"]


@pytest.mark.parametrize(
    ("node", "bias"),
    [
        ("Gemm<alpha = 2.0>(x, w)", ()),
        ("Gemm<beta = 0.5>(x, w, b)", (5,)),
        ("Gemm<transA = 1>(x, w)", ()),
        ("Gemm(x, w, b)", (5, 1)),
        ("Gemm(x, w, b)", (5, 5)),
        ("Gemm(w, x)", ()),
        ("MatMul(x, x)", ()),
    ],
)
def test_another_matrix_product_falls_back(node: str, bias: tuple[int, ...]) -> None:
    text = f"g (float[5, 5] x) => (float[5, 5] y) {{ y = {node} }}"
    model = graph(text, w=random(5, 5, seed=1), b=random(*bias, seed=2))
    assert set(without_transposes(model)) == {"fallback"}


# ---- squeeze-and-excitation ----


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_branch_is_one_kernel(batch: int) -> None:
    text = f"""g (float[{batch}, 3, 3, 5] x) => (float[{batch}, 8, 3, 5] y) {{
        a = Conv(x, w)
        {branch("a", "z")}
        {branch("z", "u", "again_")}
        y = Conv(u, v)
    }}"""
    model = graph(text, w=pair(3), v=pair(), **SQUEEZE_EXCITE)
    assert without_transposes(model) == [
        "pointwise",
        "squeeze_excite",
        "squeeze_excite",
        "pointwise",
    ]


def test_a_branch_on_the_input_works_on_its_copy() -> None:
    text = f"g (float[1, 8, 3, 5] x) => (float[1, 8, 3, 5] y) {{ {branch('x', 'y')} }}"
    assert without_transposes(graph(text, **SQUEEZE_EXCITE)) == ["squeeze_excite"]


@pytest.mark.parametrize(
    ("outputs", "more"),
    [
        ("float[1, 8, 3, 5] y, float[1, 8, 3, 5] a", ""),
        ("float[1, 8, 3, 5] y, float[1, 8, 3, 5] z", "z = HardSwish(a)"),
        ("float[1, 8, 3, 5] y, float[1, 8, 1, 1] s", ""),
        ("float[1, 8, 3, 5] y, float[1, 8, 1, 1] z", "z = Relu(g)"),
    ],
    ids=["what it scales is an output", "… is used", "the mean is an output", "the gate is used"],
)
def test_a_branch_whose_parts_others_want_is_not_one_kernel(outputs: str, more: str) -> None:
    text = f"""g (float[1, 3, 3, 5] x) => ({outputs}) {{
        a = Conv(x, w)
        {branch("a", "y")}
        {more}
    }}"""
    found = without_transposes(graph(text, w=pair(3), **SQUEEZE_EXCITE))
    assert "squeeze_excite" not in found
    assert found[:3] == ["pointwise", "global_pool", "pointwise"]


@pytest.mark.parametrize(
    ("channels", "gates"), [(8, 1), (1, 8)], ids=["one gate", "one channel, several gates"]
)
def test_gates_that_broadcast_are_not_one_kernel(channels: int, gates: int) -> None:
    text = f"""g (float[1, 3, 3, 5] x) => (float[1, 8, 3, 5] y) {{
        a = Conv(x, w)
        {branch("a", "y")}
    }}"""
    model = graph(
        text,
        w=pair(3, channels),
        w1=pair(channels, 4),
        b1=random(4),
        w2=pair(4, gates),
        b2=random(gates),
    )
    assert "squeeze_excite" not in without_transposes(model)


@pytest.mark.parametrize(
    ("outputs", "before", "after"),
    [
        ("float[1, 8, 1, 1] y, float[1, 8, 1, 1] o", "", "o = Add(y, t)"),
        ("float[1, 8, 1, 1] y, float[1, 8] o", "o = Flatten(t)", ""),
        ("float[1, 8, 1, 1] y, float[1, 8] o", "f = Flatten(t)", "o = HardSwish(f)"),
        ("float[1, 8, 1, 1] y, float[1, 8, 1, 1] o", "p = Sqrt(t)", "o = Exp(p)"),
        ("float[1, 8, 1, 1] y, float[1, 8, 1, 1] o", "o = Identity(a)", ""),
    ],
    ids=["used later", "output", "used by another name", "used by the fallback", "own name"],
)
def test_a_branch_overwrites_no_memory_that_another_tensor_lies_in(
    outputs: str, before: str, after: str
) -> None:
    """Maps of one pixel are the same memory in both layouts, so that names share it."""
    text = f"""g (float[1, 8, 1, 1] x) => ({outputs}) {{
        t = Relu(x)
        a = Identity(t)
        {before}
        {branch("a", "y")}
        {after}
    }}"""
    found = without_transposes(graph(text, **SQUEEZE_EXCITE))
    assert "squeeze_excite" not in found


def test_a_branch_overwrites_what_nothing_wants_any_more() -> None:
    text = f"""g (float[1, 8, 1, 1] x) => (float[1, 8, 1, 1] y) {{
        t = Relu(x)
        a = Identity(t)
        {branch("a", "y")}
    }}"""
    found = without_transposes(graph(text, **SQUEEZE_EXCITE))
    assert found == ["elementwise", "squeeze_excite"]


# ---- elementwise ----


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = Relu(x)", "elementwise"),
        ("y = Mul(x, x)", "elementwise"),
        ("p = GlobalAveragePool(x) y = Mul(p, x)", "elementwise"),
        ("p = GlobalAveragePool(x) y = Add(x, p)", "elementwise"),
        ("p = ReduceMean<axes = [1]>(x) y = Mul(p, x)", "fallback"),
        ("p = ReduceMean<axes = [0, 2, 3]>(x) y = Mul(p, x)", "fallback"),
        (
            "p = ReduceMean<axes = [2, 3]>(x) q = ReduceMean<axes = [1]>(x) y = Add(p, q)",
            "fallback",
        ),
        ("y = Mul(x, k)", "fallback"),
    ],
)
def test_elementwise(body: str, kind: str) -> None:
    text = f"g (float[2, 8, 3, 5] x) => (float[2, 8, 3, 5] y) {{ {body} }}"
    assert without_transposes(graph(text, k=random(8, 1, 1)))[-1] == kind


@pytest.mark.parametrize(
    ("body", "extents", "found"),
    [
        ("y = Add(k, c)", (1, 8, 1, 1), ["pointwise", "elementwise"]),
        ("s = Mul(c, k) y = HardSwish(s)", (8, 1, 1), ["pointwise", "elementwise"]),
        ("y = Mul(c, k)", (1,), ["pointwise", "elementwise"]),
        ("y = Mul(c, k)", (1, 1, 3, 5), ["pointwise", "fallback"]),
        ("e = Exp(c) y = Add(e, k)", (1, 8, 1, 1), ["pointwise", "fallback"]),  # lies as in ONNX
    ],
)
def test_a_stored_number_per_channel(
    body: str, extents: tuple[int, ...], found: list[str]
) -> None:
    text = f"g (float[2, 8, 3, 5] x) => (float[2, 8, 3, 5] y) {{ c = Conv(x, w) {body} }}"
    assert without_transposes(graph(text, w=pair(), k=random(*extents))) == found


def test_elementwise_keeps_the_layout_that_is_there() -> None:
    text = "g (float[1, 8, 3, 5] x) => (float[1, 8, 3, 5] y) { e = Exp(x) y = Relu(e) }"
    assert "transpose" not in kinds(agrees(graph(text)))
    text = "g (float[1, 8, 3, 5] x) => (float[1, 8, 3, 5] y) { a = Relu(x) y = HardSwish(a) }"
    assert kinds(agrees(graph(text))) == ["elementwise", "elementwise"]


def test_doubles_fall_back() -> None:
    text = """g (float[1, 8, 3, 5] x) => (double[1, 8, 3, 5] y) {
        d = Cast<to = 11>(x)
        y = Relu(d)
    }"""
    assert without_transposes(graph(text)) == ["fallback"]


# ---- names of the same memory ----


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("float[1, 8, 3, 5] y", "y = Identity(x)"),
        ("float[1, 8, 3, 5] y, float[1, 120] z", "y = Identity(x) z = Flatten(x)"),
        ("float[1, 8, 3, 5] y, float[1, 8, 3, 5] z", "y = Relu(x) z = Identity(y)"),
        ("float[1, 8, 3, 5] y, float[1, 8, 3, 5] z", "z = Exp(x) y = Identity(z)"),
        ("int64[1, 1, 3, 5] y, int64[1, 1, 3, 5] z", "y = ArgMax<axis = 1>(x) z = Identity(y)"),
        ("bool[1, 8, 3, 5] y, bool[1, 8, 3, 5] z", "y = Greater(x, k) z = Identity(y)"),
        ("int64[4] y, float[1, 8, 3, 5] z", "y = Shape(x) z = Relu(x)"),
        ("float[8, 1, 1] k, float[1, 8, 3, 5] z", "z = Relu(x)"),
    ],
)
def test_outputs_have_memory_of_their_own(outputs: str, body: str) -> None:
    model = graph(f"g (float[1, 8, 3, 5] x) => ({outputs}) {{ {body} }}", k=random(8, 1, 1))
    assert "copy" in kinds(agrees(model))


def test_flattening_an_image_brings_it_to_the_layout_of_onnx() -> None:
    text = """g (float[1, 3, 3, 5] x) => (float[1, 4] y) {
        a = Conv(x, w)
        f = Flatten(a)
        y = Gemm(f, v)
    }"""
    found = kinds(agrees(graph(text, w=pair(3), v=random(120, 4))))
    assert found == ["transpose", "pointwise", "transpose", "pointwise"]


def test_flattening_one_pixel_costs_nothing() -> None:
    text = """g (float[1, 8, 3, 5] x) => (float[1, 4] y) {
        p = GlobalAveragePool(x)
        f = Flatten(p)
        y = Gemm(f, v)
    }"""
    assert kinds(agrees(graph(text, v=random(8, 4)))) == ["transpose", "global_pool", "pointwise"]


def test_rows_become_an_image() -> None:
    text = """g (float[1, 120] x) => (float[1, 8, 3, 5] y) {
        r = Reshape(x, shape)
        y = Conv(r, w)
    }"""
    model = graph(text, w=pair(), shape=np.array([1, 8, 3, 5]))
    assert kinds(agrees(model)) == ["transpose", "pointwise", "transpose"]


@pytest.mark.parametrize("taken", ["x.nhwc", "region.0.0", "x.copy"])
def test_a_tensor_may_bear_the_name_that_a_value_would_get(taken: str) -> None:
    text = """g (float[1, 8, 3, 5] x) => (float[1, 8, 3, 5] y, float[1, 8, 3, 5] z) {
        t = Exp(x)
        a = Conv(x, w)
        b = Conv(t, w)
        z = Identity(x)
        y = Add(a, b)
    }"""
    model = graph(text, w=pair())
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [taken if name == "t" else name for name in names]
    agrees(model)


# ---- what cannot be planned ----


def test_an_unknown_shape_is_an_error() -> None:
    model = graph("g (float[1, 8, 3, 5] x) => (float[1, 8, 3, 5] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="'x' is not known; fix it with --input-shape"):
        select(model, NEON, HOST)


def test_a_dynamic_shape_is_an_error() -> None:
    model = graph("g (float[n, 8, 3, 5] x) => (float[n, 8, 3, 5] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="'x' is dynamic; fix it with --input-shape"):
        select(model, NEON, HOST)


def test_two_inputs_are_two_values() -> None:
    text = "g (float[1, 8] x, float[1, 8] z) => (float[1, 8] y) { y = Add(x, z) }"
    lowered = lower(graph(text), NEON)
    assert lowered.plan.inputs == ("x", "z")
    assert lowered.plan.input_shapes == ((1, 8), (1, 8))
    assert len(lowered.module["main"].params) == 2


# ---- half precision ----


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("y = Conv(x, w)", ["transpose", "pointwise", "transpose"]),
        ("y = Conv<pads = [1, 1, 1, 1]>(x, v)", ["convolution", "transpose"]),
        ("y = Exp(x)", ["fallback"]),
        ("y = Identity(x)", ["copy"]),
        ("y = HardSwish(x)", ["cast", "elementwise", "cast"]),
        (
            "a = Conv<pads = [1, 1, 1, 1]>(x, v) b = Exp(a) y = Add(a, b)",
            ["convolution", "transpose", "fallback"],
        ),
        ("d = Cast<to = 11>(x) e = Mul(d, d) y = Cast<to = 1>(e)", ["fallback"]),
        ("d = Cast<to = 10>(x) e = Relu(d) f = Cast<to = 1>(e) y = HardSwish(f)", ["fallback"]),
        (
            "a = HardSwish(x) i = Cast<to = 6>(a) j = Abs(i) f = Cast<to = 1>(j) y = Add(a, f)",
            ["cast", "elementwise", "cast", "fallback"],
        ),
    ],
)
def test_half_precision_ends_where_the_fallback_begins(body: str, found: list[str]) -> None:
    text = f"g (float[1, 8, 3, 4] x) => (float[1, 8, 3, 4] y) {{ {body} }}"
    lowered = agrees(graph(text, w=pair(), v=pair(side=3)), precision=FP16)
    steps = kinds(lowered)
    assert steps[: len(found)] == found
    types = {
        str(one.dtype)
        for step in lowered.plan.steps
        if step.kind == "fallback"
        for one in step.function.params
    }
    assert "float16" not in types


def test_a_weight_beyond_half_precision() -> None:
    model = graph(
        "g (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y) { y = Conv(x, w) }", w=7e4 * pair()
    )
    agrees(model)
    with pytest.raises(ModelError, match="weights beyond what float16 holds; compile with --pre"):
        agrees(model, precision=FP16)
