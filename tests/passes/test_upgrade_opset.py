"""Old operator sets become opset 17; new ones stay what they are."""

import numpy as np
import onnx
import pytest
from onnx import helper

from mbv3c.passes.upgrade_opset import upgrade_opset
from tests.onnx_text import graph
from tests.passes.rewriting import error, fires, leaves_alone, operators, ports, refuses

# What opsets 6 to 13 say in attributes, and later ones in inputs.
OLD = """
    g (float[1, 4, 5, 5] x) => (float[1, 4, 1, 1] y) {
        [clip] c = Clip <min = 0.0, max = 6.0> (x)
        [pad] p = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (c)
        [mean] m = ReduceMean <axes = [2, 3], keepdims = 0> (p)
        [expand] y = Unsqueeze <axes = [2, 3]> (m)
    }
"""


def opset_of(model: onnx.ModelProto) -> int:
    return model.opset_import[0].version


@pytest.mark.parametrize("opset", range(6, 11))
def test_attributes_become_inputs(opset: int) -> None:
    rewritten, report = fires(upgrade_opset, graph(OLD, opset))
    assert opset_of(rewritten) == 17
    assert [op for op in operators(rewritten) if op != "Constant"] == [
        "Clip",
        "Pad",
        "ReduceMean",
        "Unsqueeze",
    ]
    assert report.matched == ("clip", "pad", "expand")
    clip = next(node for node in rewritten.graph.node if node.name == "clip")
    assert len(clip.input) == 3
    assert not clip.attribute


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_a_graph_without_such_attributes_only_says_another_number(opset: int) -> None:
    model = graph("g (float[1, 4] x) => (float[1, 4] y) { [act] y = Relu(x) }", opset)
    rewritten, report = upgrade_opset(model)
    assert report.changed
    assert report.matched == ()
    assert opset_of(rewritten) == 17
    assert error(model, rewritten) == 0
    assert upgrade_opset(rewritten)[0] is rewritten


@pytest.mark.parametrize("opset", range(14, 19))
def test_leaves_an_opset_with_hardswish_alone(opset: int) -> None:
    leaves_alone(upgrade_opset, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }", opset))


def test_initialisers_that_ir_version_3_lists_as_inputs_become_constants() -> None:
    model = graph("g (float[1, 4] x, float k) => (float[1, 4] y) { y = Add(x, k) }", 9, k=three())
    model.ir_version = 3
    rewritten, _ = upgrade_opset(model)
    assert ports(rewritten) == (["x"], ["y"])
    onnx.checker.check_model(rewritten, full_check=True)
    assert error(model, rewritten) == 0


def test_a_default_of_a_newer_ir_version_stays_an_input() -> None:
    model = graph("g (float[1, 4] x, float k) => (float[1, 4] y) { y = Add(x, k) }", 13, k=three())
    assert ports(upgrade_opset(model)[0]) == (["x", "k"], ["y"])


BIGGER = [(2, 2), (1.5, 3), (2.5, 1.25)]
SMALLER = [(0.5, 0.75), (0.4, 2)]  # Upsample only enlarges


@pytest.mark.parametrize(
    ("operator", "opset", "factors"),
    [
        *(("Upsample", opset, factors) for opset in (7, 8, 9) for factors in BIGGER),
        *(("Resize", 10, factors) for factors in (*BIGGER, *SMALLER)),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_pixels_stay_where_they_are(
    operator: str, opset: int, factors: tuple[float, float], mode: str
) -> None:
    scales = np.array([1, 1, *factors], np.float32)
    height, width = (int(8 * factor) for factor in factors)
    attributes, inputs = f'mode = "{mode}"', "x, s"
    if opset < 9:
        attributes, inputs = f"{attributes}, scales = {list(map(float, scales))}", "x"
    text = f"""
        g (float[1, 2, 8, 8] x) => (float[1, 2, {height}, {width}] y) {{
            [resize] r = {operator} <{attributes}> ({inputs})
            y = Relu (r)
        }}
    """
    arrays = {} if opset < 9 else {"s": scales}
    fires(upgrade_opset, graph(text, opset, **arrays))


def test_refuses_a_factor_that_only_the_input_tells() -> None:
    model = graph(
        """
        g (float[1, 1, 4, 4] x) => (float[a, b, c, d] y) {
            m = ReduceMax <axes = [0, 1, 2], keepdims = 0> (x)
            y = Resize <mode = "nearest"> (x, m)
        }
        """,
        10,
    )
    assert "its scales are computed when the model runs" in refuses(upgrade_opset, model)


def test_keeps_the_metadata() -> None:
    model = graph("g (float[4] x) => (float[4] y) { y = Relu(x) }", 13)
    helper.set_model_props(model, {"mbv3c.variant": "large"})
    assert upgrade_opset(model)[0].metadata_props == model.metadata_props


def test_refuses_what_the_converter_cannot_convert() -> None:
    """More than one output said training mode before opset 14; the converter knows no such."""
    model = graph(
        """
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) <float[4] k = {1, 1, 1, 1}> {
            y, m, v, saved_m, saved_v = BatchNormalization(x, k, k, k, k)
        }
        """,
        13,
    )
    reason = refuses(upgrade_opset, model)
    assert reason.startswith("opset 13 cannot be converted to 17: BatchNormalization outputs")


def three() -> np.ndarray:
    return np.array(3, np.float32)


def test_refuses_a_resize_in_a_branch() -> None:
    model = graph(
        """
        g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) <bool c = {1}> {
            y = If (c) <
                then_branch = t () => (float[1, 1, 8, 8] a) { a = Upsample (x, s) },
                else_branch = e () => (float[1, 1, 8, 8] b) { b = Upsample (x, s) }
            >
        }
        """,
        9,
        s=np.array([1, 1, 2, 2], np.float32),
    )
    assert "it is in a branch" in refuses(upgrade_opset, model)
