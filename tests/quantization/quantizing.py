"""Small networks and inputs that the tests of quantization share."""

import onnx

from mbv3c.passes import run_pipeline
from mbv3c.quantization.layers import normalized
from tests.onnx_text import graph, random


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    return normalized(run_pipeline(model)[0])


def block() -> onnx.ModelProto:
    """Return a bottleneck with squeeze-and-excite, as PIPELINE leaves it, and a classifier."""
    return graph(
        """g (float[1, 3, 16, 16] x) => (float[1, 5] logits)
        <float low = {0.0}, float high = {1.0}>
        {
            [stem] s = Conv <pads = [1, 1, 1, 1]> (x, w_stem, b_stem)
            [stem_act] a = HardSwish(s)
            [pool] p = GlobalAveragePool(a)
            [squeeze] q = Conv(p, w_squeeze)
            [squeeze_act] r = Relu(q)
            [excite] e = Conv(r, w_excite)
            [gate] g = Clip(e, low, high)
            [scale] m = Mul(a, g)
            [project] j = Conv(m, w_project)
            [residual] t = Add(a, j)
            [last] l = GlobalAveragePool(t)
            [flatten] f = Flatten(l)
            [head] logits = Gemm <transB = 1> (f, w_head)
        }""",
        w_stem=random(8, 3, 3, 3),
        b_stem=random(8, seed=1),
        w_squeeze=random(4, 8, 1, 1, seed=2),
        w_excite=random(8, 4, 1, 1, seed=3),
        w_project=random(8, 8, 1, 1, seed=4),
        w_head=random(5, 8, seed=5),
    )
