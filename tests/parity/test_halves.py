"""What half precision does to a model by itself, and that it excuses no more."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.parity.compare import compare
from mbv3c.parity.halves import (
    rounding_of_sums,
    share_of_range,
    stored_in_half,
    with_storing,
)
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import run, run_reference, session
from mbv3c.parity.tolerance import TOLERANCES
from tests.onnx_text import graph, random


def sensitive() -> onnx.ModelProto:
    """Return a model that shows what sums are beside a hundred."""
    return graph(
        """g (float[1, 4, 2, 2] x) => (float[1, 4, 2, 2] y) {
            [large] l = Conv(x, w, far)
            [near] n = Sub(l, offset)
            [gate] y = Sigmoid(n)
        }""",
        w=random(4, 4, 1, 1),
        far=np.full(4, 100, np.float32),
        offset=np.full((1, 4, 1, 1), 100, np.float32),
    )


def test_constants_and_tensors_are_halves() -> None:
    model = sensitive()
    halves = stored_in_half(model)
    x = inputs_of(model)[0]
    (y,), (wanted,) = run(session(halves), x), run(session(model), x)
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    w = weights["w"].astype(np.float16).astype(np.float32)
    sums = np.einsum("nchw,oc->nohw", np.asarray(x), w[:, :, 0, 0]) + np.float32(100)
    near = sums.astype(np.float16).astype(np.float32) - np.float32(100)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-near)), atol=1e-6)
    assert np.abs(y - wanted).max() > 1e-3


@pytest.mark.parametrize(("times", "passes"), [(1.0, True), (3.5, True), (6.0, False)])
def test_some_times_what_storing_does_is_allowed(times: float, passes: bool) -> None:
    model = sensitive()
    inputs = inputs_of(model)[:2]
    known = list(run_reference(model, inputs))
    stored = [run(session(stored_in_half(model)), x) for x in inputs]
    ours = [
        [one.output + times * (y - one.output) for y, one in zip(made, outputs, strict=True)]
        for made, outputs in zip(stored, known, strict=True)
    ]
    judged = compare(
        ours,
        with_storing(model, inputs, known),
        TOLERANCES["fp16"],
        ran_on="numpy",
        exact_program=True,
    )
    assert judged.passed == passes


@pytest.mark.parametrize(("ending", "allowed"), [("Sigmoid", 0.1), ("Exp", None)])
def test_scores_that_are_all_near_0_may_be_off_as_one_near_1(
    ending: str, allowed: float | None
) -> None:
    """Of the map of a text detector on noise the largest number is 1e-4."""
    model = graph(
        f"g (float[1, 4, 2, 2] x) => (float[1, 4, 2, 2] y) {{ l = Sub(x, far) y = {ending}(l) }}",
        far=np.array(12, np.float32),
    )
    inputs = inputs_of(model)[:1]
    ((score,),) = with_storing(model, inputs, list(run_reference(model, inputs)))
    if allowed is None:
        assert score.rounding < 0.05
    else:
        assert score.rounding == allowed


def test_sums_that_cancel_round_at_the_size_of_their_parts() -> None:
    model = sensitive()
    stored = {one.name: one for one in model.graph.initializer}
    x = np.ones((1, 4, 2, 2), np.float32)
    found = rounding_of_sums(model.graph.node, stored, {"x": -x}, model.opset_import)
    w = np.abs(numpy_helper.to_array(stored["w"])).sum((1, 2, 3)).max()
    assert found == pytest.approx(3e-3 * (w + 100), rel=1e-5)
    assert rounding_of_sums(model.graph.node[1:], stored, {"l": x}, model.opset_import) == 0.0


def test_one_number_everywhere_never_passes() -> None:
    """Sums of a thousand times what is left of them would allow thrice the range."""
    right = np.array([-1.0, 0.5, 1.0])
    zeros = float(np.abs(right).max() / np.ptp(right))
    assert share_of_range(6.0, right) < zeros
    assert share_of_range(0.02, right) == pytest.approx(0.01)
