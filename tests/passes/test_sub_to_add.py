"""Sub of a constant becomes Add; what is no constant stays."""

import numpy as np
import pytest

from mbv3c.passes.sub_to_add import SubToAdd
from tests.onnx_text import graph
from tests.passes.rewriting import fires, ignores, initializers, operators, refuses

SUB = "g (float[1, 4, 3, 3] x) => (float[1, 4, 3, 3] y) { [sub] y = Sub(x, c) }"


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1)])
def test_fires(shape: tuple[int, ...]) -> None:
    model = graph(SUB, c=np.full(shape, -3, np.float32))
    rewritten, report = fires(SubToAdd(), model, tolerance=0)
    assert operators(rewritten) == ["Add"]
    assert report.matched == ("sub",)
    assert (initializers(rewritten)["c"] == 3).all()


def test_a_constant_that_is_used_elsewhere_is_kept() -> None:
    text = SUB.replace("[sub]", "m = Mul(x, c) [sub]").replace("Sub(x", "Sub(m")
    rewritten, _ = fires(SubToAdd(), graph(text, c=np.array(2, np.float32)), tolerance=0)
    assert initializers(rewritten)["c"] == 2


def test_refuses_integers() -> None:
    text = SUB.replace("float", "int32")
    assert refuses(SubToAdd(), graph(text, c=np.array(2, np.int32))) == "'x' is INT32, not a float"


@pytest.mark.parametrize("sub", ["Sub(c, x)", "Sub(x, x)", "Div(x, c)"])
def test_ignores_what_only_resembles_it(sub: str) -> None:
    ignores(SubToAdd(), graph(SUB.replace("Sub(x, c)", sub), c=np.array(2, np.float32)))
