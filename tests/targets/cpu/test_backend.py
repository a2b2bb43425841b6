"""Whole networks: each kind of processor's kernels, run on this one, against onnxruntime."""

from dataclasses import replace

import onnx
import pytest
from onnx import numpy_helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.passes import run_pipeline
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets.cpu.cores import Processor
from tests.onnx_text import graph, random
from tests.parity.small_network import small_network
from tests.targets.cpu.networks import AVX2, AVX512, NEON, agrees, compare, kinds, lower

SEVERAL_CORES = replace(AVX512, cores=2, parallel_madds=0)


WHOLE = ModelSpec("small", width=0.35, resolution=96, classes=11)


@pytest.fixture(scope="module", params=["blocks", "whole"])
def tiny(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Return networks with channel counts that no vector divides."""
    model = small_network(more_channels=3) if request.param == "blocks" else build_model(WHOLE)
    return run_pipeline(model)[0]


@pytest.fixture(scope="module", params=["blocks", "whole"])
def moderate(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Return networks whose sums are in the range of half precision."""
    if request.param == "whole":
        return run_pipeline(build_model(WHOLE))[0]
    model = small_network()
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".bn.var"):
            tensor.CopyFrom(
                numpy_helper.from_array(1 + numpy_helper.to_array(tensor), tensor.name)
            )
    return run_pipeline(model)[0]


@pytest.mark.parametrize(
    "machine", [NEON, AVX2, AVX512, SEVERAL_CORES], ids=["neon", "avx2", "avx512", "two cores"]
)
def test_a_network_computes_what_onnxruntime_computes(
    tiny: onnx.ModelProto, machine: Processor
) -> None:
    lowered = agrees(tiny, machine)
    assert "fallback" not in kinds(lowered)
    pools = [node for node in tiny.graph.node if node.op_type == "GlobalAveragePool"]
    assert kinds(lowered).count("squeeze_excite") == len(pools) - 1  # the head has one, too
    assert kinds(lowered).count("transpose") == 0


@pytest.mark.parametrize("machine", [NEON, AVX2], ids=["neon", "avx2"])
def test_a_network_in_half_precision(moderate: onnx.ModelProto, machine: Processor) -> None:
    lowered = agrees(moderate, machine, FP16)
    single = lower(moderate, machine)
    assert kinds(lowered) == [*kinds(single), "cast"]
    values = {value.dtype for value in lowered.plan.values.values()}
    assert values == {"float16", "float32"}
    weights = [sum(step.constant_bytes for step in one.plan.steps) for one in (lowered, single)]
    assert 2 * weights[0] == weights[1]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=str)
def test_a_batch_of_a_segmenter(precision: Precision) -> None:
    spec = replace(WHOLE, classes=5, head="lraspp", batch=2, minimalistic=True)
    found = kinds(agrees(run_pipeline(build_model(spec))[0], precision=precision))
    assert {"fallback", "upsample"} <= set(found)
    assert ("cast" in found) == (precision == FP16)


def test_a_weight_that_differs_is_seen() -> None:
    """A check that passes whatever comes out would be none."""
    text = (
        "g (float[1, 3, 9, 9] x) => (float[1, 8, 9, 9] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    )
    weights = random(8, 3, 3, 3)
    other = weights.copy()
    other[5, 1, 2, 0] += 1e-3
    lowered = lower(graph(text, w=other), AVX2)
    compare(lowered, graph(text, w=other))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        compare(lowered, graph(text, w=weights))
