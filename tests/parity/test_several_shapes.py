"""One verdict of those on several shapes."""

import numpy as np

from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.parity.several_shapes import ShapesVerdict
from mbv3c.parity.tolerance import TOLERANCES
from tests.onnx_text import graph


def verdict(size: int, error: float) -> Parity:
    model = graph(f"g (float[1, {size}] x) => (float[1, {size}] y) {{ y = Neg(x) }}")
    x = np.random.default_rng(size).standard_normal((1, size)).astype(np.float32)
    references: list[list[ReferenceOutput]] = list(run_reference(model, [x]))
    outputs = [[-x * np.float32(1 + error)]]
    return compare(outputs, references, TOLERANCES["fp32"], ran_on="here", exact_program=True)


def test_one_shape_that_misses_makes_the_whole_missed() -> None:
    whole = ShapesVerdict({"1x40": verdict(40, 0.0), "1x50": verdict(50, 0.01)})
    assert not whole.passed
    assert [one.passed for one in whole.verdicts.values()] == [True, False]
    assert [check.passed for check in whole.checks()] == [True, False]
    assert [check.name for check in whole.checks()] == ["1x40: y, input 0", "1x50: y, input 0"]
    found = whole.to_json()
    assert found["max_error_of_range"] == found["shapes"][1]["max_error_of_range"] > 1e-3
    assert (found["passed"], [one["shape"] for one in found["shapes"]]) == (
        False,
        ["1x40", "1x50"],
    )
    assert whole.lines()[1].startswith("1x50: parity: MISSED on here")
    assert [pair[0].ours.size for pair in whole.pairs] == [40, 50]


def test_shapes_that_pass_make_the_whole_pass() -> None:
    assert ShapesVerdict({"1x40": verdict(40, 0.0), "1x50": verdict(50, 1e-7)}).passed
