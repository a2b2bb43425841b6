"""What CPUs compute in integers: all of MobileNetV3, of attention the products with weights."""

from dataclasses import replace

import onnx

from mbv3c.quantization.by_itself import quantize_once
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.layers import layers
from mbv3c.quantization.options import KeepFloat, QuantizeOptions
from mbv3c.targets.cpu.in_integers import computed_in_integers
from tests.onnx_text import graph, random
from tests.quantization import quantizing


def tokens() -> onnx.ModelProto:
    """Return two layers over tokens, with a Swish between them and a normalisation behind them."""
    return graph(
        """g (float[1, 6, 8] x) => (float[1, 6, 8] y) <float epsilon = {0.001}>
        {
            [up] u = MatMul(x, w_up)
            [bias] b = Add(u, added)
            [sigmoid] s = Sigmoid(b)
            [swish] a = Mul(b, s)
            [down] d = MatMul(a, w_down)
            [residual] r = Add(x, d)
            [mean] m = ReduceMean <axes = [2]> (r)
            [centre] c = Sub(r, m)
            [square] q = Mul(c, c)
            [variance] v = ReduceMean <axes = [2]> (q)
            [shift] e = Add(v, epsilon)
            [root] t = Sqrt(e)
            [divide] n = Div(c, t)
            [last] y = MatMul(n, w_last)
        }""",
        w_up=random(8, 16),
        added=random(16, seed=1),
        w_down=random(16, 8, seed=2),
        w_last=random(8, 8, seed=3),
    )


def test_a_bottleneck_is_computed_in_integers() -> None:
    model = quantizing.rewritten(quantizing.block())
    every = [part.nodes[0] for part in layers(model)]
    assert len(every) == 9
    assert computed_in_integers(model).issuperset(every)


def test_what_reads_floats_stays_in_floats() -> None:
    """The sum reads integers of both products; what normalises it has no kernels of integers."""
    found = computed_in_integers(quantizing.rewritten(tokens()))
    assert found == {"up", "down", "residual", "last"}


def test_layers_without_integer_kernels_are_not_quantized() -> None:
    """They are with `--keep-float 0`."""
    model = tokens()
    inputs = replace(random_inputs(model, 8), random=False)
    said: list[str] = []

    def kept(options: QuantizeOptions | None) -> set[str]:
        _, report = quantize_once(
            model, inputs, options, said.append, computed_in_integers, may_keep_float=True
        )
        assert report is not None
        return {layer.name for layer in report.kept_float}

    stay = kept(None)
    assert {"bias", "swish", "centre", "divide"} <= stay
    assert not stay & {"up", "down", "residual", "last"}
    assert any(f"{len(stay)} of 14 layers stay in fp32" in text for text in said)
    assert not kept(QuantizeOptions())
    more = kept(QuantizeOptions(keep_float=KeepFloat(1)))
    assert len(more) == len(stay) + 1
    assert more > stay
