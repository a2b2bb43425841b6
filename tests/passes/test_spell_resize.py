"""Every rule of Resize is computed as onnxruntime does, whichever form it takes."""

from itertools import product

import numpy as np
import onnx
import pytest

from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes.spell_resize import spell_resize
from tests.onnx_text import graph, random
from tests.passes.rewriting import leaves_alone, operators

COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "asymmetric",
    "align_corners",
    "half_pixel_symmetric",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = ((2.0, 2.0), (1.5, 2.5), (0.5, 0.75), (4.0, 1.0))
SIZES = ((16, 20), (13, 17), (5, 7), (1, 1))


def resize(attributes: str, opset: int = 19, **operand: tuple[float, float]) -> onnx.ModelProto:
    """Return a graph that resizes 8x10 pixels by `scales` or to `sizes`."""
    ((kind, values),) = operand.items()
    if kind == "scales":
        array, inputs = np.array([1, 1, *values], np.float32), "x, , s"
        height, width = int(8 * values[0]), int(10 * values[1])
    else:
        array, inputs = np.array([1, 2, *values], np.int64), "x, , , s"
        height, width = map(int, values)
    text = f"""
        g (float[1, 2, 8, 10] x) => (float[1, 2, {height}, {width}] y) {{
            [resize] y = Resize <{attributes}> ({inputs})
        }}
    """
    return graph(text, opset, s=array)


def agrees(model: onnx.ModelProto) -> list[str]:
    rewritten, report = spell_resize(model)
    onnx.checker.check_model(rewritten, full_check=True)
    x = random(1, 2, 8, 10)
    (ours,), (theirs,) = (run(session(each), x) for each in (rewritten, model))
    assert error_of_range(ours, theirs) <= 1e-6
    assert not spell_resize(rewritten)[1].changed
    assert report.nodes_after == len(rewritten.graph.node)
    return operators(rewritten)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(coordinates: str) -> None:
    for rounding in ROUNDINGS:
        rule = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{rounding}"'
        for scales in SCALES:
            assert set(agrees(resize(rule, scales=scales))) <= {"Resize", "Gather"}
        for sizes in SIZES:
            assert set(agrees(resize(rule, sizes=sizes))) <= {"Resize", "Gather"}


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("linear", ""),
        ("linear", ", antialias = 1"),
        ("cubic", ""),
        ("cubic", ", antialias = 1"),
        ("cubic", ", cubic_coeff_a = -0.5, exclude_outside = 1"),
    ],
)
def test_sums(mode: str, more: str) -> None:
    cases = product(
        COORDINATES, (*(("scales", s) for s in SCALES), *(("sizes", s) for s in SIZES))
    )
    for coordinates, (kind, values) in cases:
        rule = f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"{more}'
        agrees(resize(rule, **{kind: values}))


@pytest.mark.parametrize("coordinates", COORDINATES[:4])
def test_linear_by_whole_numbers_stays(coordinates: str) -> None:
    rule = f'mode = "linear", coordinate_transformation_mode = "{coordinates}"'
    leaves_alone(spell_resize, resize(rule, scales=(2, 4)))


@pytest.mark.parametrize("rule", ['nearest_mode = "floor"', 'nearest_mode = "round_prefer_floor"'])
def test_doubling_has_one_form(rule: str) -> None:
    rule = f'coordinate_transformation_mode = "asymmetric", {rule}'
    rewritten, _ = spell_resize(resize(rule, sizes=(16, 20)))
    (node,) = rewritten.graph.node
    assert len(node.input) == 3
    assert {a.name: a.s for a in node.attribute}["nearest_mode"] == b"floor"


def test_only_some_axes() -> None:
    model = graph(
        """
        g (float[1, 2, 8, 10] x) => (float[1, 2, 12, 10] y) {
            y = Resize <mode = "linear", axes = [2]> (x, , s)
        }
        """,
        18,
        s=np.array([1.5], np.float32),
    )
    assert "Resize" not in agrees(model)


def test_empty_operands_as_opset_11_needs_them() -> None:
    model = graph(
        """
        g (float[1, 2, 8, 10] x) => (float[1, 2, 16, 20] y) {
            y = Resize <mode = "linear"> (x, r, e, s)
        }
        """,
        17,
        r=np.zeros(0, np.float32),
        e=np.zeros(0, np.float32),
        s=np.array([1, 2, 16, 20], np.int64),
    )
    rewritten, _ = spell_resize(model)
    assert list(rewritten.graph.node[0].input) == ["x", "", "", "s"]
    agrees(model)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_a_part_is_cut_out(mode: str, value: float) -> None:
    """And what lies outside of the input gets a value of its own."""
    rule = (
        f'mode = "{mode}", coordinate_transformation_mode = "tf_crop_and_resize", axes = [3, 2], '
        f"extrapolation_value = {value}"
    )
    text = f"""
        g (float[1, 2, 8, 10] x) => (float[1, 2, 8, 7] y) {{ y = Resize <{rule}> (x, r, , s) }}
    """
    part, sizes = np.array([-0.1, 0.3, 0.8, 1.2], np.float32), np.array([7, 8], np.int64)
    assert "Resize" not in agrees(graph(text, 18, r=part, s=sizes))


def test_what_cannot_be_spelled_says_why() -> None:
    rule = 'mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"'
    model = graph(
        f"""
        g (float[1, 2, 8, 10] x, float[8] r) => (float[1, 2, 16, 20] y)
        {{ y = Resize <{rule}> (x, r, , s) }}
        """,
        17,
        s=np.array([1, 2, 16, 20], np.int64),
    )
    rewritten, report = spell_resize(model)
    assert rewritten is model
    assert report.refused[0].reason == (
        "the part that tf_crop_and_resize cuts out is computed when the model runs"
    )


def test_an_axis_that_keeps_its_size_is_interpolated_all_the_same() -> None:
    model = graph(
        """
        g (float[1, 2, 8, 10] x) => (float[1, 2, 6, 10] y) {
            y = Resize <mode = "linear"> (x, , s)
        }
        """,
        17,
        s=np.array([1, 1, 0.8, 1.04], np.float32),
    )
    assert "Resize" not in agrees(model)


def test_a_size_that_is_whole_by_rounding_only() -> None:
    model = graph(
        """
        g (float[1, 2, 8, 10] x) => (float[1, 2, 16, 20] y) {
            y = Resize <mode = "linear"> (x, , s)
        }
        """,
        17,
        s=np.array([1, 1, 2.1, 2.05], np.float32),
    )
    assert "Resize" not in agrees(model)


def test_no_change_of_size_is_no_operation() -> None:
    assert agrees(resize('mode = "cubic"', scales=(1.0, 1.0))) == ["Identity"]


@pytest.mark.parametrize(
    ("mode", "policy", "sides"),
    [
        ("linear", "not_larger", "13, 16"),
        ("cubic", "not_smaller", "14, 17"),
        ("nearest", "not_larger", "13, 16"),
    ],
)
def test_proportions_are_kept(mode: str, policy: str, sides: str) -> None:
    rule = f'mode = "{mode}", axes = [2, 3], keep_aspect_ratio_policy = "{policy}"'
    types = f"float[1, 2, 8, 10] x) => (float[1, 2, {sides}] y"
    text = f"g ({types}) {{ y = Resize <{rule}> (x, , , s) }}"
    assert "Resize" not in agrees(graph(text, 18, s=np.array([13, 17], np.int64)))


@pytest.mark.parametrize(
    ("rule", "types", "reason"),
    [
        (
            'axes = [2, 3], coordinate_transformation_mode = "tf_crop_and_resize"',
            ("float[1, 2, 8, 10]", "float[1, 2, 13, 17]"),
            "the part that tf_crop_and_resize cuts out is computed when the model runs",
        ),
        (
            'mode = "linear", axes = [2, 3]',
            ("uint8[1, 2, 8, 10]", "uint8[1, 2, 13, 17]"),
            "it adds up pixels that are no floats",
        ),
    ],
)
def test_what_stays(rule: str, types: tuple[str, str], reason: str) -> None:
    text = f"g ({types[0]} x) => ({types[1]} y) {{ y = Resize <{rule}> (x, , , s) }}"
    model = graph(text, 18, s=np.array([13, 17], np.int64))
    (refusal,) = leaves_alone(spell_resize, model).refused
    assert refusal.reason == reason
