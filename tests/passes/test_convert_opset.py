"""A graph in the operator set that somebody asks for, or an error that names the obstacle."""

import onnx
import pytest

from mbv3c.errors import ModelError, UsageError
from mbv3c.parity.rewriting import in_opset
from mbv3c.passes.convert_opset import OPSETS, convert_opset
from tests.onnx_text import graph
from tests.passes.rewriting import ROUNDING, error, operators, ports
from tests.passes.test_pipeline import optimized


def body(text: str, opset: int = 17, stored: str = "") -> onnx.ModelProto:
    ends = "(float[1, 4, 6, 6] x) => (float[1, m, n, o] y)"
    return graph(f"g {ends} <{stored}> {{ {text} }}", opset)


def opset_of(model: onnx.ModelProto) -> int:
    return model.opset_import[0].version


@pytest.fixture(scope="module")
def rewritten(small: onnx.ModelProto) -> onnx.ModelProto:
    return optimized(small)[0]


@pytest.mark.parametrize("opset", OPSETS)
def test_a_network_in_every_opset(rewritten: onnx.ModelProto, opset: int) -> None:
    converted, report = in_opset(rewritten, opset)
    assert opset_of(converted) == opset
    onnx.checker.check_model(converted, full_check=True)
    assert ports(converted) == ports(rewritten)
    swishes = operators(rewritten).count("HardSwish")
    assert len(report.matched) == (swishes if opset < 14 else 0)
    assert operators(converted).count("HardSwish") == (swishes if opset >= 14 else 0)
    assert [proof.verdict.passed for proof in report.proofs] == [True] * (opset != 17)
    again, second = convert_opset(converted, opset)
    assert again is converted
    assert not second.changed


def test_below_14_a_hardswish_is_spelled_out_and_fuses_again() -> None:
    model = body("[act] y = HardSwish(x)")
    converted, report = convert_opset(model, 13)
    assert [node.name for node in converted.graph.node] == ["act.hardsigmoid", "act"]
    assert operators(converted) == ["HardSigmoid", "Mul"]
    assert report.matched == ("act",)
    assert error(model, converted) <= ROUNDING
    rewritten, _ = optimized(converted)
    assert operators(rewritten) == ["HardSwish"]


@pytest.mark.parametrize("opset", [14, 17, 18])
def test_from_14_on_it_stays(opset: int) -> None:
    converted, _ = convert_opset(body("y = HardSwish(x)", 15), opset)
    assert operators(converted) == ["HardSwish"]


@pytest.mark.parametrize(("given", "opset"), [(9, 11), (9, 18), (13, 12), (12, 14), (18, 11)])
def test_up_and_down(given: int, opset: int) -> None:
    model = body("a = Relu(x) [last] y = Mul(a, x)", given)
    converted, _ = in_opset(model, opset)
    assert opset_of(converted) == opset
    assert error(model, converted) == 0


@pytest.mark.parametrize(
    ("text", "given", "opset", "message"),
    [
        (
            "[norm] y = LayerNormalization(x, w)",
            *(17, 16),
            r"LayerNormalization \(node 'norm'\) exists from opset 17 on; the lowest that works i",
        ),
        ("y = Mish(x)", 18, 13, r"Mish \(node '→ y'\) exists from opset 18 on; the lowest that w"),
        (
            "[up] y = Resize(x, , s)",
            *(17, 12),
            r"there is no conversion for Resize \(node 'up'\); the lowest that works is 13",
        ),
        ("[s] y = Softmax(x)", 17, 11, r"for Softmax \(node 's'\); the lowest that works is 13"),
        (
            "[pad] y = Pad(x, p, , a)",
            18,
            17,
            r"for Pad \(node 'pad'\); the lowest that works is 18",
        ),
        (
            "[pad] y = Pad(x, p, , a)",
            18,
            11,
            r"for Pad \(node 'pad'\); the lowest that works is 18",
        ),
        (
            "[shape] t = Reshape <allowzero = 1> (x, r) [h] y = HardSwish(t)",
            *(17, 13),
            r"for Reshape \(node 'shape'\); the lowest that works is 14",
        ),
    ],
)
def test_what_is_in_the_way_is_named(text: str, given: int, opset: int, message: str) -> None:
    stored = "float[6] w = {1, 1, 1, 1, 1, 1}, float[4] s = {1, 1, 2, 2}, int64[2] p = {1, 1}"
    stored += ", int64[1] a = {2}, int64[4] r = {1, 6, 4, 6}"
    with pytest.raises(ModelError, match=f"cannot be written in opset {opset}: .*{message}"):
        convert_opset(body(text, given, stored), opset)


def test_attributes_with_their_default_are_left_out() -> None:
    stored = "int64[4] r = {1, 6, 4, 6}"
    converted, _ = convert_opset(body("y = Reshape <allowzero = 0> (x, r)", 17, stored), 13)
    assert not converted.graph.node[0].attribute


@pytest.mark.parametrize("opset", [0, 10, 19, -1])
def test_an_opset_that_is_not_written(opset: int) -> None:
    with pytest.raises(UsageError, match=f"--opset {opset}: mbv3c writes opset 11 to 18"):
        convert_opset(body("y = Relu(x)"), opset)


def test_a_conversion_that_computes_something_else_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(model: onnx.ModelProto, opset: int) -> object:
        converted, report = convert_opset(model, opset)
        converted.graph.node[0].op_type = "Abs"
        return converted, report

    monkeypatch.setattr("mbv3c.parity.rewriting.convert_opset", wrong)
    with pytest.raises(
        ModelError, match=r"converted to opset 13, computes something else: .* off"
    ):
        in_opset(body("y = Relu(x)"), 13)
