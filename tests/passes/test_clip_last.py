"""Clip of the argument becomes Clip of the line where the line starts at 0."""

import numpy as np
import pytest

from mbv3c.passes.clip_last import ClipLast
from tests.onnx_text import graph
from tests.passes.rewriting import (
    ROUNDING,
    error,
    fires,
    ignores,
    initializers,
    operators,
    refuses,
)

HEAD = """
    g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y)
    <float bottom = {-3}, float top = {3}, float three = {3}, float six = {6}, float half = {0.5},
     float sixth = {0.16666667}, float nearly = {2.9}, float minus = {-1}, float zero = {0}>
"""
ADDED = "[clip] c = Clip(x, bottom, top) [add] y = Add(c, three)"
MULTIPLIED = "[clip] c = Clip(x, bottom, top) m = Mul(c, sixth) y = Add(m, half)"
DIVIDED = "[clip] c = Clip(x, bottom, top) d = Div(c, six) y = Add(half, d)"


def spelled(body: str) -> str:
    return f"{HEAD} {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "wanted", "high"),
    [
        (ADDED, ["Add", "Clip"], 6),
        (ADDED.replace("c, three", "three, c"), ["Add", "Clip"], 6),
        (MULTIPLIED, ["Mul", "Add", "Clip"], 1),
        (MULTIPLIED.replace("c, sixth", "sixth, c"), ["Mul", "Add", "Clip"], 1),
        (DIVIDED, ["Div", "Add", "Clip"], 1),
    ],
)
def test_fires(body: str, wanted: list[str], high: float) -> None:
    rewritten, _ = fires(ClipLast(), graph(spelled(body)), ROUNDING)
    assert operators(rewritten) == wanted
    clip = rewritten.graph.node[-1]
    assert clip.name == "clip"
    bounds = [initializers(rewritten)[name].item() for name in clip.input[1:]]
    assert bounds == pytest.approx([0, high])
    assert bounds[0] == 0


def test_fires_in_fp16() -> None:
    model = graph(
        """
        g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) {
            h = Cast <to = 10> (x)
            c = Clip(h, bottom, top)
            a = Add(c, top)
            y = Cast <to = 1> (a)
        }
        """,
        bottom=np.array(-3, np.float16),
        top=np.array(3, np.float16),
    )
    rewritten, _ = fires(ClipLast(), model, 2e-3)
    assert operators(rewritten) == ["Cast", "Add", "Clip", "Cast"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("three", "nearly", "Add's constant must be 3, as Clip's minimum asks, got 2.9"),
        ("bottom", "minus", "Add's constant must be 1, as Clip's minimum asks, got 3"),
    ],
)
def test_refuses_a_line_that_does_not_start_at_0(old: str, new: str, reason: str) -> None:
    assert refuses(ClipLast(), graph(spelled(ADDED.replace(old, new)))) == reason


@pytest.mark.parametrize(
    "body", [MULTIPLIED.replace("sixth", "minus"), DIVIDED.replace("six", "zero")]
)
def test_refuses_a_line_that_does_not_rise(body: str) -> None:
    reason = refuses(ClipLast(), graph(spelled(body)))
    assert reason == "the line behind the Clip does not rise"


def test_refuses_a_shared_intermediate() -> None:
    text = spelled(ADDED).replace("3] y)", "3] y, float[1, 4, 3, 3] z)")
    reason = refuses(ClipLast(), graph(text.replace("[add]", "[other] z = Neg(c) [add]")))
    assert reason == "intermediate 'c' is also used by 'other'"


def test_refuses_an_intermediate_that_is_an_output() -> None:
    text = spelled(ADDED).replace("3] y)", "3] y, float[1, 4, 3, 3] c)")
    assert refuses(ClipLast(), graph(text)) == "intermediate 'c' is an output of the graph"


def test_refuses_integers() -> None:
    text = "g (int32[4] x) => (int32[4] y) <int32 a = {-3}, int32 b = {3}> { c = Clip(x, a, b) "
    assert refuses(ClipLast(), graph(text + "y = Add(c, b) }")) == "'x' is INT32, not a float"


def test_refuses_constants_that_raise_the_rank() -> None:
    text = spelled(ADDED).replace("float three", "float[1, 1, 1, 1] three")
    text = text.replace("[1, 4, 3, 3] x", "[3, 3] x").replace("[1, 4, 3, 3] y", "[1, 1, 3, 3] y")
    assert refuses(ClipLast(), graph(text)) == "'three' has more dimensions than 'x' may have"


@pytest.mark.parametrize("add", ["Sub(c, three)", "Add(c, x)", "Add(c, c)"])
def test_ignores_what_only_resembles_it(add: str) -> None:
    ignores(ClipLast(), graph(spelled(ADDED.replace("Add(c, three)", add))))


def test_an_upper_bound_below_the_lower_one_stays_one() -> None:
    model = graph(spelled(ADDED.replace("bottom, top", "bottom, nearly")))
    rewritten, _ = ClipLast()(model)
    assert error(model, rewritten) <= ROUNDING
