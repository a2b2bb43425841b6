"""Blocks as exporters spell them end as the operators that our own graphs end as.

The spellings are those of `spellings.py`, alone, mixed, and each with every way to miss it nearly.
"""

import re
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.onnx_text import graph
from tests.passes.rewriting import error, operators
from tests.passes.spellings import (
    CANONICAL,
    CLASSIFIERS,
    CONSTANTS,
    DROPPED,
    GATES,
    HARDSWISHES,
    HEADS,
    NORMS,
    PADDINGS,
    RELUS,
    SCALARS,
    SQUEEZES,
    WRONG,
    block,
    hardswish,
    parameters,
    with_number,
)
from tests.passes.test_pipeline import TOLERANCE, optimized


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
def test_gate(gate: str) -> None:
    ends_canonical(block(gate=gate))


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_squeeze_and_excite(squeeze: str) -> None:
    ends_canonical(block(squeeze=squeeze))


@pytest.mark.parametrize("relu", RELUS)
def test_relu(relu: str) -> None:
    ends_canonical(block(relu=relu))


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding(padding: str) -> None:
    ends_canonical(block(padding=padding))


@pytest.mark.parametrize("norm", NORMS)
def test_norm(norm: str) -> None:
    ends_canonical(block(norm=norm))


@pytest.mark.parametrize("head", HEADS)
def test_head(head: str) -> None:
    ends_canonical(block(head=head))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_classifier(classifier: str) -> None:
    ends_canonical(block(classifier=classifier))


@pytest.mark.parametrize("dropped", DROPPED)
def test_inference_only(dropped: str) -> None:
    ends_canonical(block(dropped=dropped))


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_constants(constants: str, rank: int) -> None:
    swish, gate = "x · relu6(x + 3) / 6", "relu6(x + 3) · 1/6"
    ends_canonical(block(swish=swish, gate=gate, constants=constants, rank=rank))


@settings(max_examples=60, deadline=None)
@given(
    swish=st.sampled_from(sorted(HARDSWISHES)),
    gate=st.sampled_from(sorted(GATES)),
    squeeze=st.sampled_from(sorted(SQUEEZES)),
    relu=st.sampled_from(sorted(RELUS)),
    padding=st.sampled_from(sorted(PADDINGS)),
    norm=st.sampled_from(sorted(NORMS)),
    head=st.sampled_from(sorted(HEADS)),
    classifier=st.sampled_from(sorted(CLASSIFIERS)),
    dropped=st.sampled_from(sorted(DROPPED)),
    rank=st.integers(0, 2),
    constants=st.sampled_from(CONSTANTS),
)
def test_any_mixture(**parts: Any) -> None:
    ends_canonical(block(**parts))


def near_misses() -> list[tuple[str, str]]:
    """Return every spelling of hard-swish with every constant in it."""
    words = {key: set(re.findall(r"\w+", body)) for key, body in HARDSWISHES.items()}
    return [(key, name) for key in HARDSWISHES for name in WRONG if name in words[key]]


def refusals(model: onnx.ModelProto) -> set[str]:
    """Optimize what is no hard-swish: it must be refused and compute the same."""
    rewritten, reports = optimized(model)
    assert "HardSwish" not in operators(rewritten)
    assert error(model, rewritten) <= TOLERANCE
    reasons = {refusal.reason for report in reports for refusal in report.refused}
    assert reasons
    return reasons


@pytest.mark.parametrize(("key", "name"), near_misses())
def test_one_wrong_number_is_refused(key: str, name: str) -> None:
    refusals(with_number(hardswish(key), name, WRONG[name]))


def intermediates() -> list[tuple[str, str]]:
    return [
        (key, node.output[0])
        for key in HARDSWISHES
        for node in hardswish(key).graph.node
        if node.output[0] != "y"
    ]


@pytest.mark.parametrize(("key", "tensor"), intermediates())
def test_an_intermediate_that_is_an_output_is_refused(key: str, tensor: str) -> None:
    reasons = refusals(hardswish(key, outputs=f", float[1, 4, 6, 6] {tensor}"))
    assert any(f"intermediate {tensor!r} is an output of the graph" == r for r in reasons)


@pytest.mark.parametrize(("key", "tensor"), intermediates())
def test_an_intermediate_that_is_used_elsewhere_is_refused(key: str, tensor: str) -> None:
    model = hardswish(key, ", float[1, 4, 6, 6] z", f"[other] z = Neg({tensor})")
    assert any("is also used by" in reason for reason in refusals(model))


def test_a_sixth_in_fp16_is_another_number() -> None:
    """Behind a Cast it is 0.16663, which would be seen in fp32."""
    model = hardswish("x · relu6(x + 3) · 1/6")
    half = np.float16(SCALARS["sixth"])
    sixth = next(tensor for tensor in model.graph.initializer if tensor.name == "sixth")
    sixth.CopyFrom(onnx.numpy_helper.from_array(np.array(half), "sixth_half"))
    cast = onnx.helper.make_node("Cast", ["sixth_half"], ["sixth"], to=1)
    model.graph.node.insert(0, cast)
    assert refusals(model) == {"Mul's constant must be 0.1666667, got 0.166626"}


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
