"""What holds nothing is a constant; what is made of it folds away, or is refused by its name."""

import numpy as np
import pytest

from mbv3c.errors import ModelError
from mbv3c.passes import run_pipeline
from mbv3c.passes.store_empty import store_empty
from tests.onnx_text import graph
from tests.passes.rewriting import operators
from tests.targets.cpu.networks import NEON, agrees, lower

CUT = "e = Slice(x, two, two, axis)"  # from 2 to 2
CONSTANTS = {"two": np.array([2]), "axis": np.array([1])}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (f"{CUT} r = Relu(e) c = Concat <axis = 1> (r, x) y = Sqrt(c)", ["Sqrt"]),
        (f"{CUT} s = ReduceSum <keepdims = 1> (e, axis) y = Add(x, s)", ["Add"]),
        ("a, e = Split <axis = 1> (x, whole) y = Sqrt(a)", ["Sqrt"]),
        (
            "a, e, b = Split <axis = 1> (x, two_parts) n = Neg(b) y = Concat <axis = 1> (a, e, n)",
            ["Split", "Neg", "Concat"],
        ),
        ("c = Concat <axis = 1> (x, none, x) y = Slice(c, two, five, axis)", ["Concat", "Slice"]),
    ],
)
def test_what_is_made_of_it_is_constant(body: str, kept: list[str]) -> None:
    model = graph(
        f"g (float[2, 3] x) => (float[2, 3] y) {{ {body} }}",
        **CONSTANTS,
        five=np.array([5]),
        whole=np.array([3, 0]),
        two_parts=np.array([1, 0, 2]),
        none=np.zeros((2, 0), np.float32),
    )
    rewritten, _ = run_pipeline(model)
    assert operators(rewritten) == kept
    agrees(rewritten, NEON)


def test_an_output_of_nothing_is_refused_by_its_name() -> None:
    model = graph(f"g (float[2, 3] x) => (float[2, 0] y) {{ {CUT} y = Relu(e) }}", **CONSTANTS)
    for given, name in ((model, "'y', made by Relu,"), (run_pipeline(model)[0], "'y'")):
        with pytest.raises(ModelError, match=rf"{name} has the shape \(2, 0\), which holds no"):
            lower(given, NEON)


def test_others_stay() -> None:
    model = graph("g (float[2, 3] x) => (float[2, 6] y) { y = Concat <axis = 1> (x, x) }")
    assert store_empty(model) is model
