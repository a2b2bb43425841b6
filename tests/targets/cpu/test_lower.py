"""Whole networks: each kind of processor's kernels, run on this one, against onnxruntime."""

from dataclasses import replace

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu.lower import lower
from mbv3c.targets.cpu.processor import Processor
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import AVX2, AVX512, HOST, NEON, agrees, compare, kinds

SEVERAL_CORES = replace(AVX512, cores=2, parallel_madds=0)


@pytest.fixture(scope="module")
def tiny() -> onnx.ModelProto:
    """Return a Small with channel counts that no vector divides."""
    return run_pipeline(build_model(ModelSpec("small", width=0.35, resolution=96, classes=11)))[0]


@pytest.mark.parametrize(
    "machine", [NEON, AVX2, AVX512, SEVERAL_CORES], ids=["neon", "avx2", "avx512", "two cores"]
)
def test_a_network_computes_what_onnxruntime_computes(
    tiny: onnx.ModelProto, machine: Processor
) -> None:
    lowered = agrees(tiny, machine)
    assert "fallback" not in kinds(lowered)
    assert kinds(lowered).count("squeeze_excite") == 9
    assert kinds(lowered).count("transpose") == 0


@pytest.mark.parametrize("machine", [NEON, AVX2], ids=["neon", "avx2"])
def test_a_network_in_half_precision(tiny: onnx.ModelProto, machine: Processor) -> None:
    lowered = agrees(tiny, machine, "fp16")
    single = lower(tiny, machine, HOST)
    assert kinds(lowered) == [*kinds(single), "cast"]
    values = {value.dtype for value in lowered.plan.values.values()}
    assert values == {"float16", "float32"}
    weights = [sum(step.constant_bytes for step in one.plan.steps) for one in (lowered, single)]
    assert 2 * weights[0] == weights[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_batch_of_a_segmenter(precision: str) -> None:
    spec = ModelSpec("small", width=0.35, resolution=96, classes=5, head="lraspp", batch=2)
    found = kinds(agrees(run_pipeline(build_model(spec))[0], precision=precision))
    assert "fallback" in found
    assert ("cast" in found) == (precision == "fp16")


def test_a_weight_that_differs_is_seen() -> None:
    """A check that passes whatever comes out would be none."""
    text = (
        "g (float[1, 3, 9, 9] x) => (float[1, 8, 9, 9] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    )
    weights = random(8, 3, 3, 3)
    other = weights.copy()
    other[5, 1, 2, 0] += 1e-3
    lowered = lower(graph(text, w=other), AVX2, HOST)
    compare(lowered, graph(text, w=other))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(lowered, graph(text, w=weights))
