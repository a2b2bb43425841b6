"""TopK of many by a heap: values, places and ties as in onnxruntime, on rows of any layout."""

import numpy as np
import pytest
from onnx.shape_inference import infer_shapes

from mbv3c.errors import UnknownOperatorsError
from tests.passes.test_spell_topk import INFINITE, results, topk
from tests.targets.cpu.networks import NEON, kinds, lower, run

# shape, axis, count: one row, all of it, columns behind the axis, a heap of one and of two
CASES = [((40,), 0, 17), ((2, 19), 1, 19), ((3, 20, 4), 1, 18), ((1, 5), 1, 1), ((2, 7), -1, 2)]


@pytest.mark.parametrize(("shape", "axis", "count"), CASES)
def test_values_places_and_ties(shape: tuple[int, ...], axis: int, count: int) -> None:
    random = np.random.default_rng(count)
    for dtype, largest, opset in ((np.float32, 1, 11), (np.int64, 0, 17), (np.uint8, 1, 24)):
        model = infer_shapes(topk(shape, count, dtype, opset, axis=axis, largest=largest))
        lowered = lower(model, NEON)
        assert kinds(lowered) == ["top"]
        inputs = [
            np.floor(random.normal(size=shape) * 2 + 9).astype(dtype),
            np.sort(random.integers(0, 99, shape), axis).astype(dtype),
            random.choice(np.array(INFINITE), shape).astype(np.float32).astype(dtype)
            if dtype == np.float32
            else np.zeros(shape, dtype),
        ]
        for x, got in zip(inputs, run(lowered, inputs), strict=True):
            for ours, theirs in zip(got, results(model, x), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)


def test_an_output_that_nothing_reads() -> None:
    model = infer_shapes(topk((1, 40), 20))
    del model.graph.output[0]
    x = np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)
    ((places,),) = run(lower(model, NEON), [x])
    np.testing.assert_array_equal(places, results(model, x)[0])


def test_what_does_not_sort_is_left() -> None:
    with pytest.raises(UnknownOperatorsError, match="no kernel for these operators: TopK"):
        lower(infer_shapes(topk((1, 40), 20, sorted=0)), NEON)
