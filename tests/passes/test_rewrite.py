"""The driver of the rewrites, on a rewrite as small as can be."""

import numpy as np
import onnx_ir as ir
import pytest

from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.report import Refusal
from mbv3c.passes.rewrite import (
    Match,
    Rewrite,
    constant,
    is_close,
    replaced_initializer,
    scalar,
    static,
    stored,
)
from tests.onnx_text import graph
from tests.passes.rewriting import fires, initializers, leaves_alone, operators


class FuseScales(Rewrite):
    """Mul(Mul(x, a), b) becomes Mul(x, a · b), unless a or b is 7."""

    name = "fuse_scales"
    patterns = (lambda op, x, a, b: op.Mul(op.Mul(x, a), b),)
    scalars = frozenset({"a", "b"})

    def check(self, match: Match) -> str | None:
        return "7 stays" if 7 in match.scalars.values() else None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        product = np.array(match.scalars["a"] * match.scalars["b"], np.float32)
        factor = replaced_initializer(op, match, match.values["a"], product)
        return op.op("Mul", [match.values["x"], factor], name=match.name)


def chain(*factors: int) -> str:
    """Return a graph that multiplies by these, one after the other."""
    names = ["x", *[f"t{i}" for i in range(1, len(factors))], "y"]
    stored = ", ".join(f"float k{i} = {{{f}}}" for i, f in enumerate(factors))
    nodes = [
        f'["block{i}.mul"] {names[i + 1]} = Mul({names[i]}, k{i})' for i in range(len(factors))
    ]
    return f"g (float[4, 8] x) => (float[4, 8] y) <{stored}> {{ {' '.join(nodes)} }}"


@pytest.mark.parametrize("mul", ["Mul(x, k0)", "Mul(k0, x)"])
def test_operands_match_in_both_orders(mul: str) -> None:
    rewritten, _ = fires(FuseScales(), graph(chain(2, 3).replace("Mul(x, k0)", mul)))
    assert operators(rewritten) == ["Mul"]
    assert [array.item() for array in initializers(rewritten).values() if array == 6] == [6]


def test_a_match_may_use_what_an_earlier_one_built() -> None:
    rewritten, report = fires(FuseScales(), graph(chain(2, 3, 5, 11)))
    assert operators(rewritten) == ["Mul"]
    assert len(report.matched) == 3


def test_a_refusal_beside_a_match() -> None:
    _, report = FuseScales()(graph(chain(2, 3, 7)))
    assert report.changed
    assert len(report.matched) == 1
    assert report.refused == (Refusal("block2.mul", "7 stays"),)


def test_a_place_is_refused_once_however_many_spellings_fit() -> None:
    report = leaves_alone(FuseScales(), graph(chain(2, 7)))
    assert report.refused == (Refusal("block1.mul", "7 stays"),)


def test_a_refusal_without_a_name_says_the_operator() -> None:
    report = leaves_alone(FuseScales(), graph(chain(2, 7).replace('["block1.mul"]', "")))
    assert [refusal.node for refusal in report.refused] == ["Mul"]


def test_a_constant_with_several_elements_is_no_match() -> None:
    text = chain(2, 3).replace("float k0 = {2}", "float[8] k0 = {1, 2, 3, 4, 5, 6, 7, 8}")
    assert leaves_alone(FuseScales(), graph(text)).refused == ()


def test_a_use_inside_a_subgraph_counts() -> None:
    text = (
        chain(2, 3)
        .replace("8] y)", "8] y, float[4, 8] z)")
        .replace("<float", "<bool no = {0}, float")
    )
    branches = "then_branch = a () => (float[4, 8] p) { p = Neg(t1) }"
    branches += ", else_branch = b () => (float[4, 8] q) { q = Neg(x) }"
    text = text.replace('["block1.mul"]', f'[choose] z = If (no) <{branches}> ["block1.mul"]')
    report = leaves_alone(FuseScales(), graph(text))
    assert len(report.refused) == 1
    assert "intermediate 't1' is also used by" in report.refused[0].reason


def test_the_given_model_is_left_as_it_is() -> None:
    """Even the tensor inside a Constant node, which has no name of its own."""
    model = graph("""
        g (float[4] x) => (float[4] y) <float three = {3}, float zero = {0}, float six = {6}> {
            k = Constant <value = float {6}> ()
            a = Add(x, three)
            c = Clip(a, zero, six)
            y = Div(c, k)
        }
    """)
    before = model.SerializeToString()
    FuseHardSigmoid()(model)
    assert model.SerializeToString() == before


CONSTANTS_OF_EVERY_KIND = """
    g (float[2] x, float default) => (float[2] y)
    <float one = {1}, float[1, 1] four = {4}, float[2] two = {1, 2}, float default = {5}> {
        node = Constant <value_float = 3.0> ()
        computed = Neg(one)
        sum = Sum(x, one, two, default, node, computed)
        flat = Squeeze(four)
        y = Mul(sum, flat)
    }
"""


def value(name: str) -> ir.Value:
    """Return a tensor of CONSTANTS_OF_EVERY_KIND."""
    model = ir.from_proto(graph(CONSTANTS_OF_EVERY_KIND))
    return ir.convenience.create_value_mapping(model.graph)[name]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("one", 1.0),
        ("four", 4.0),
        ("node", 3.0),
        ("two", None),  # two elements
        ("x", None),  # an input
        ("default", None),  # an input with a default
        ("computed", None),
    ],
)
def test_scalar_reads_constants_with_one_element(name: str, number: float | None) -> None:
    assert scalar(value(name)) == number


def test_constant_reads_arrays() -> None:
    np.testing.assert_array_equal(constant(value("two")), [1, 2])
    assert constant(value("default")) is None


@pytest.mark.parametrize(
    ("dtype", "number", "close"),
    [
        (np.float32, float(np.float32(1 / 6)), True),
        (np.float32, float(np.float16(1 / 6)), False),
        (np.float16, float(np.float16(1 / 6)), True),
        (np.float16, 0.17, False),
    ],
)
def test_is_close_is_as_strict_as_the_type_allows(dtype: type, number: float, close: bool) -> None:
    array = np.array(number, dtype)
    operand = ir.Value(name="k", type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
    assert is_close(number, 1 / 6, operand) is close


class AddConstants(FuseScales):
    """Mul(Mul(x, a), b) where both are constants of any size."""

    scalars = frozenset()
    constants = frozenset({"a", "b"})

    def check(self, match: Match) -> str | None:
        return "looked at"


def test_a_variable_that_must_be_constant_is_no_match_otherwise() -> None:
    text = chain(2, 3).replace("float k0 = {2}", "float[8] k0 = {1, 2, 3, 4, 5, 6, 7, 8}")
    assert leaves_alone(AddConstants(), graph(text)).refused == (
        Refusal("block1.mul", "looked at"),
    )
    computed = text.replace('["block1', 'c = Neg(k1) ["block1').replace("t1, k1", "t1, c")
    assert leaves_alone(AddConstants(), graph(computed)).refused == ()


@pytest.mark.parametrize(("name", "shape"), [("x", (2,)), ("default", ()), ("four", (1, 1))])
def test_static_reads_shapes(name: str, shape: tuple[int, ...]) -> None:
    assert static(value(name)) == shape


def test_static_is_none_where_a_size_is_not_known() -> None:
    model = ir.from_proto(graph("g (float[n, 4] x) => (float[n, 4] y) { y = Neg(x) }"))
    assert static(model.graph.inputs[0]) is None


def test_stored_takes_no_name_that_is_in_use() -> None:
    model = ir.from_proto(graph(CONSTANTS_OF_EVERY_KIND))
    names = [stored(model.graph, name, np.zeros(2)).name for name in ("new", "four", "y", "new")]
    assert names == ["new", "four.1", "y.1", "new.1"]
