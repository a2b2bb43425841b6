"""Which GPU kernels take which nodes, and that they compute on PoCL what onnxruntime does."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.lower import Lowered
from mbv3c.precision import FP16, FP32, Precision
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import compare, kinds
from tests.targets.opencl.networks import agrees, lowered_for, rewritten, run

POINT = random(8, 8, 1, 1, seed=5)
BRANCH = {
    "w1": random(4, 8, 1, 1, seed=1),
    "b1": random(4, seed=2),
    "w2": random(8, 4, 1, 1, seed=3),
    "b2": random(8, seed=4),
}
WEIGHTS = {"dw": random(8, 1, 3, 3, seed=6), "v": POINT, "u": POINT[::-1].copy(), **BRANCH}
DEPTHWISE = "a = Conv<group = 8, pads = [1, 1, 1, 1]>(x, dw) d = HardSwish(a)"


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


def block(
    body: str, *, batch: int = 1, outputs: str = "y", **weights: np.ndarray
) -> onnx.ModelProto:
    """Return a graph of maps with eight channels; `outputs` are names, or types with names."""
    typed = ", ".join(
        one if " " in one else f"float[{batch}, 8, 5, 6] {one}" for one in outputs.split(" and ")
    )
    text = f"g (float[{batch}, 8, 5, 6] x) => ({typed}) {{ {body} }}"
    needed = {name: array for name, array in {**WEIGHTS, **weights}.items() if name in text}
    return graph(text, **needed)


def without_transposes(lowered: Lowered) -> list[str]:
    return [kind for kind in kinds(lowered) if kind not in ("transpose", "cast")]


def parameters(lowered: Lowered, kind: str) -> list[list[str]]:
    """Return the names of the parameters of every kernel of a kind."""
    found = [step.function for step in lowered.plan.steps if step.kind == kind]
    return [[str(one.name) for one in function.params] for function in found]


# ---- the whole family ----


@pytest.mark.parametrize(
    ("variant", "launches", "distinct"), [("small", 46, 37), ("large", 57, 43)]
)
def test_launches_of_a_network(variant: str, launches: int, distinct: int) -> None:
    lowered = lowered_for(rewritten(ModelSpec(variant)))
    found = kinds(lowered)
    assert len(found) == launches
    assert len(set(lowered.kernels)) == distinct
    assert set(found) == {"convolution", "depthwise", "gates", "pointwise", "global_pool"}
    assert found.count("global_pool") == 1  # of the classifier; those of the branches are sums


@pytest.mark.parametrize(
    ("device", "precision"), [("mali", FP32), ("mali", FP16), ("adreno", FP32)], ids=str
)
def test_a_network_computes_what_onnxruntime_computes(device: str, precision: Precision) -> None:
    """With channel counts that no vector divides."""
    spec = ModelSpec("small", width=0.35, resolution=96, classes=11)
    lowered = agrees(rewritten(spec), device, precision)
    assert kinds(lowered).count("gates") == 9
    assert "cast" not in kinds(lowered)  # the last product writes single precision


# ---- squeeze-and-excitation ----


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_branch_is_sums_gates_and_a_gated_product(batch: int, precision: Precision) -> None:
    model = block(f"{DEPTHWISE} {branch('d', 'z')} y = Conv(z, v)", batch=batch)
    lowered = agrees(model, precision=precision)
    assert without_transposes(lowered) == ["depthwise", "gates", "pointwise"]
    assert parameters(lowered, "depthwise") == [["x", "w", "bias", "y", "sums"]]
    assert parameters(lowered, "pointwise") == [["x", "gates", "w", "bias", "y"]]
    gates = next(step for step in lowered.plan.steps if step.kind == "gates")
    assert {lowered.plan.values[name].dtype for name in gates.values} == {"float32"}
    assert len(gates.nodes) == 6
    assert "z" not in lowered.plan.values  # the scaled map is written nowhere


def test_a_branch_with_a_residual_and_an_activation_after_the_product() -> None:
    body = f"{DEPTHWISE} {branch('d', 'z')} p = Conv(z, v) h = Relu(p) y = Add(h, x)"
    lowered = agrees(block(body, batch=2))
    assert without_transposes(lowered) == ["depthwise", "gates", "pointwise"]
    assert parameters(lowered, "pointwise") == [["x", "gates", "w", "bias", "residual", "y"]]


def test_two_products_read_one_gated_map() -> None:
    body = f"{DEPTHWISE} {branch('d', 'z')} p = Conv(z, v) k = Conv(z, u) y = Add(p, k)"
    lowered = agrees(block(body))
    assert without_transposes(lowered) == ["depthwise", "gates", "pointwise", "pointwise"]
    assert all("gates" in names for names in parameters(lowered, "pointwise"))


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize(
    ("body", "outputs", "found"),
    [
        ("y = HardSwish(z)", "y", ["elementwise", "elementwise"]),
        ("p = Conv(z, v) y = Add(p, z)", "y", ["pointwise", "elementwise", "elementwise"]),
        (
            "p = Conv(z, v) h = Relu(p) y = Mul(z, h)",
            "y",
            ["pointwise", "elementwise", "elementwise"],
        ),
        ("y = Conv<group = 8, pads = [1, 1, 1, 1]>(z, dw)", "y", ["elementwise", "depthwise"]),
        ("y = Exp(z)", "y", ["elementwise", "fallback"]),
        ("y = Conv(z, v)", "y and z", ["pointwise", "elementwise"]),
        ("y = GlobalAveragePool(z)", "float[1, 8, 1, 1] y", ["elementwise", "global_pool"]),
        ("y = Flatten(z)", "float[1, 240] y", ["elementwise"]),
    ],
    ids=["activation", "sum", "both", "depthwise", "fallback", "output", "pool", "rename"],
)
def test_a_scaled_map_that_anything_else_reads_is_written_once(
    body: str, outputs: str, found: list[str], precision: Precision
) -> None:
    model = block(f"{DEPTHWISE} {branch('d', 'z')} {body}", outputs=outputs)
    lowered = agrees(model, precision=precision)
    assert without_transposes(lowered) == ["depthwise", "gates", *found]
    scaled = [step for step in lowered.plan.steps if "z" in step.writes]
    assert len(scaled) == 1


def test_branches_in_a_row() -> None:
    """What is scaled first is pooled and scaled again, by another kernel each."""
    body = f"{DEPTHWISE} {branch('d', 'z')} {branch('z', 't', 'again_')} y = Conv(t, v)"
    found = without_transposes(agrees(block(body, batch=2)))
    assert found == ["depthwise", "gates", "elementwise", "global_pool", "gates", "pointwise"]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"{branch('x', 'z')} y = Conv(z, v)", []),
        (f"a = Conv(x, u) {branch('a', 'z')} y = Conv(z, v)", ["pointwise"]),
        (f"a = Relu(x) {branch('a', 'z')} y = Conv(z, v)", ["elementwise"]),
    ],
    ids=["the input", "after a product", "after an activation"],
)
def test_a_branch_without_a_depthwise_before_it_has_a_pool_of_its_own(
    body: str, found: list[str], batch: int, precision: Precision
) -> None:
    lowered = agrees(block(body, batch=batch), precision=precision)
    assert without_transposes(lowered) == [*found, "global_pool", "gates", "pointwise"]


def test_a_branch_of_what_the_fallback_made() -> None:
    found = without_transposes(agrees(block(f"a = Exp(x) {branch('a', 'z')} y = Conv(z, v)")))
    assert found[0] == "fallback"
    assert found[-1] == "pointwise"


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ("", "y and d"),
        ("t = HardSwish(d)", "y and t"),
        ("", "y and float[1, 8, 1, 1] s"),
        ("", "y and float[1, 8, 1, 1] g"),
        ("t = Relu(g)", "y and float[1, 8, 1, 1] t"),
        ("t = Conv(s, v)", "y and float[1, 8, 1, 1] t"),
    ],
    ids=[
        "what is scaled is an output",
        "… is used",
        "the mean is an output",
        "the gate is an output",
        "the gate is used",
        "the mean is used",
    ],
)
def test_a_branch_whose_parts_others_want(more: str, outputs: str) -> None:
    """The map beside it may be wanted; its mean and its gates have to be tensors then."""
    body = f"{DEPTHWISE} {branch('d', 'z')} {more} y = Conv(z, v)"
    found = without_transposes(agrees(block(body, outputs=outputs)))
    whole = "float[1, 8, 1, 1]" not in outputs
    assert ("gates" in found) is whole
    assert ("global_pool" in found) is not whole


@pytest.mark.parametrize(("channels", "gates"), [(8, 1), (1, 8)], ids=["one gate", "one channel"])
def test_gates_that_broadcast_are_not_gates_by_channel(channels: int, gates: int) -> None:
    text = f"""g (float[1, 8, 5, 6] x) => (float[1, 8, 5, 6] y) {{
        a = Conv(x, w)
        {branch("a", "y")}
    }}"""
    model = graph(
        text,
        w=random(channels, 8, 1, 1, seed=9),
        w1=random(4, channels, 1, 1, seed=1),
        b1=random(4),
        w2=random(gates, 4, 1, 1, seed=2),
        b2=random(gates),
    )
    assert "gates" not in without_transposes(agrees(model))


def test_a_gate_of_another_map_is_no_branch() -> None:
    body = f"{DEPTHWISE} {branch('d', 'z')} y = Conv(z, v)".replace("Mul(d, g)", "Mul(x, g)")
    found = without_transposes(agrees(block(body)))
    assert "gates" not in found
    assert found[:2] == ["depthwise", "global_pool"]


def test_a_map_of_one_pixel() -> None:
    """Where both layouts are the same memory."""
    text = f"""g (float[2, 8, 1, 1] x) => (float[2, 8, 1, 1] y, float[2, 8] f) {{
        {DEPTHWISE} {branch("d", "z")} f = Flatten(z) y = Conv(z, v)
    }}"""
    needed = {name: WEIGHTS[name] for name in ("dw", "v", *BRANCH)}
    found = without_transposes(agrees(graph(text, **needed)))
    assert found == ["depthwise", "gates", "elementwise", "pointwise"]


# ---- outputs in the middle ----


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{DEPTHWISE} y = Conv(d, v)", "y and d"),
        ("a = Conv(x, v) y = Conv(a, u)", "y and a"),
        ("a = Conv(x, v) b = Identity(a) y = Conv(b, u)", "y and b"),
        (
            "p = GlobalAveragePool(x) f = Flatten(p) y = Conv(x, v)",
            "y and float[1, 8] f and float[1, 8, 1, 1] p",
        ),
    ],
    ids=["depthwise", "pointwise", "another name", "one pixel"],
)
def test_an_output_in_the_middle_keeps_its_type_and_layout(
    body: str, outputs: str, precision: Precision
) -> None:
    lowered = agrees(block(body, outputs=outputs), precision=precision)
    plan = lowered.plan
    assert {plan.values[name].dtype for name in plan.outputs} == {"float32"}
    assert len(set(plan.outputs)) == len(plan.outputs)


# ---- half precision ----


CLASSIFIER = """
    g (float[1, 8, 5, 6] x) => (float[1, 7] y) {
        [stem] a = Conv<pads = [1, 1, 1, 1]>(x, dense)
        [depthwise] b = Conv<group = 8, pads = [1, 1, 1, 1]>(a, dw)
        [pool] c = GlobalAveragePool(b)
        [flatten] f = Flatten(c)
        [classifier] y = Gemm(f, last)
    }"""


def classifier() -> onnx.ModelProto:
    return graph(
        CLASSIFIER,
        dense=random(8, 8, 3, 3, seed=1),
        dw=WEIGHTS["dw"],
        last=random(8, 7, seed=3),
    )


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ((), set()),
        (("stem",), {"stem"}),
        (("dep*", "pool"), {"depthwise", "pool"}),
        (("class*",), {"classifier"}),
        (("*",), {"stem", "depthwise", "pool", "classifier"}),
    ],
)
def test_layers_that_are_kept_compute_in_single_precision(
    patterns: tuple[str, ...], kept: set[str]
) -> None:
    lowered = agrees(classifier(), precision=FP16, keep_float=patterns)
    for step in lowered.plan.steps:
        if step.kind in ("cast", "transpose", "copy"):
            continue
        weights = [str(one.dtype) for one in step.function.params if str(one.name) == "w"]
        expected = "float32" if set(step.nodes) & kept else "float16"
        assert set(weights) <= {expected}, step
        written = {lowered.plan.values[name].dtype for name in step.writes}
        assert written == {"float32" if step.nodes == ("classifier",) else expected}, step


def test_a_branch_is_kept_by_the_name_of_its_pool() -> None:
    body = f"{DEPTHWISE} {branch('d', 'z')} y = Conv(z, v)"
    model = block(body)
    for node in model.graph.node:
        node.name = node.output[0]
    half, kept = (agrees(model, precision=FP16, keep_float=patterns) for patterns in ((), ("s",)))
    types = [
        next(
            str(one.dtype)
            for step in lowered.plan.steps
            if step.kind == "gates"
            for one in step.function.params
            if str(one.name) == "w1"
        )
        for lowered in (half, kept)
    ]
    assert types == ["float16", "float32"]


def test_all_kept_is_single_precision() -> None:
    """Nothing is stored as half then, so that the result is that of fp32."""
    lowered = lowered_for(classifier(), precision=FP16, keep_float=("*",))
    assert {value.dtype for value in lowered.plan.values.values()} == {"float32"}
    single = lowered_for(classifier())
    assert kinds(lowered) == kinds(single)


def test_a_weight_beyond_half_precision() -> None:
    model = block("y = Conv(x, v)", v=7e4 * POINT)
    agrees(model)
    with pytest.raises(ModelError, match="weights beyond what float16 holds"):
        agrees(model, precision=FP16)


@pytest.mark.parametrize("shape", ["3, 6625", "1, 3, 6625"])
def test_a_long_softmax_is_shared_among_work_items(shape: str) -> None:
    """Its sums are made in parts, each of which is one of them."""
    text = f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Softmax<axis = -1>(x) }}"
    (step,) = agrees(graph(text)).plan.steps
    assert step.function.script().count("threadIdx.x") >= 5  # of both sums and both their parts


def test_the_fallback_computes_in_single_precision() -> None:
    lowered = agrees(block(f"{DEPTHWISE} e = Exp(d) y = Conv(e, v)"), precision=FP16)
    types = {
        str(one.dtype)
        for step in lowered.plan.steps
        if step.kind == "fallback"
        for one in step.function.params
    }
    assert types == {"float32"}


# ---- heads, whose kernels TVM writes in part ----


def test_a_segmenter() -> None:
    spec = ModelSpec("small", width=0.35, resolution=96, classes=5, head="lraspp")
    assert "fallback" in kinds(agrees(rewritten(spec), precision=FP16))


def test_a_weight_that_differs_is_seen() -> None:
    """A check that passes whatever comes out would be none."""
    model = block("y = Conv(x, v)")
    lowered = lowered_for(model)
    compare(lowered, model, execute=run)
    off = block("y = Conv(x, v)", v=np.where(POINT.max() == POINT, 1.01 * POINT, POINT))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(lowered, off, execute=run)
