from collections import Counter

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.lowering.quantization import Quantization
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.lowering.composite import bindings, name_of
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.importing import import_named
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.tosa_graph import multiplier
from mbv3c.targets.ethos_u.placement import PlacementError, npu_part
from tests.targets.ethos_u.lowering.small_graphs import ONE_OPERATION_LSB, difference, graph_of

RESIZE = """
    s = Constant <value_floats=[%s]> ()
    e = Constant <value_floats: floats=[]> ()
    h = Conv(x, p)
    y = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (h, e, s)
"""
TORCH_RESIZE = """
    s = Constant <value_ints=[1,12,18,22]> ()
    h = Conv(x, p)
    y = Resize <
        coordinate_transformation_mode="pytorch_half_pixel",
        cubic_coeff_a=-0.75, mode="linear", nearest_mode="floor"
    > (h, , , s)
"""
CASES = {
    "conv": graph_of("y = Conv <pads=[1,1,1,1]> (x, w, b)", "[1,16,9,11]"),
    "strided": graph_of("y = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)", "[1,16,5,6]"),
    "uneven": graph_of("y = Conv <pads=[0,0,1,1], strides=[2,2]> (x, w)", "[1,16,4,5]"),
    "wide strides": graph_of("y = Conv <pads=[1,1,1,1], strides=[3,3]> (x, w)", "[1,16,3,4]"),
    "pointwise, strided": graph_of("y = Conv <strides=[2,2]> (x, p)", "[1,12,5,6]"),
    "dilated": graph_of("y = Conv <pads=[2,2,2,2], dilations=[2,2]> (x, w)", "[1,16,9,11]"),
    "pointwise": graph_of("y = Conv(x, p)", "[1,12,9,11]"),
    "depthwise": graph_of(
        "y = Conv <group=8, pads=[2,2,2,2], strides=[2,2]> (x, v, c)", "[1,8,5,6]"
    ),
    "conv_relu": graph_of("t = Conv <pads=[1,1,1,1]> (x, w, b) y = Relu(t)", "[1,16,9,11]"),
    "hardswish": graph_of("y = HardSwish(x)"),
    "sigmoid": graph_of("y = Sigmoid(x)"),
    "hardsigmoid": graph_of("y = HardSigmoid <alpha=0.1667> (x)"),
    "mean": graph_of("y = GlobalAveragePool(x)", "[1,8,1,1]"),
    "multiply": graph_of("m = GlobalAveragePool(x) y = Mul(x, m)"),
    "add": graph_of("h = HardSwish(x) y = Add(x, h)"),
    "resize by 2": graph_of(RESIZE % "1.0,1.0,2.0,2.0", "[1,12,18,22]"),
    "resize by 3": graph_of(RESIZE % "1.0,1.0,3.0,3.0", "[1,12,27,33]"),
    "resize by 4": graph_of(RESIZE % "1.0,1.0,4.0,4.0", "[1,12,36,44]"),
    "resize by 8": graph_of(RESIZE % "1.0,1.0,8.0,8.0", "[1,12,72,88]"),
    "resize by 16": graph_of(RESIZE % "1.0,1.0,16.0,16.0", "[1,12,144,176]"),
    "resize as torch writes it": graph_of(TORCH_RESIZE, "[1,12,18,22]"),
    "gemm": graph_of("m = GlobalAveragePool(x) f = Flatten(m) y = Gemm(f, g, d)", "[1,6]"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_onnxruntime(name: str):
    # An operation that takes the result of another one can be off by what that one is.
    allowed = ONE_OPERATION_LSB + (name in ("multiply", "gemm", "add"))
    assert difference(CASES[name]) <= allowed


def test_a_mean_as_a_pool_rounds_twice():
    assert difference(CASES["mean"], LoweringOptions("pool")) <= 2 * ONE_OPERATION_LSB


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("resize")])
def test_a_device_that_interpolates_does_what_convolutions_do(name: str):
    assert difference(CASES[name], LoweringOptions(interpolates=True)) <= ONE_OPERATION_LSB


def test_the_network_is_one_region_and_only_its_ends_stay(quantized: onnx.ModelProto):
    parts = partition(quantized)
    (region,) = parts.regions
    assert not parts.on_cpu
    assert [one.kind for one in parts.ends] == ["quantize", "dequantize"]
    kinds = Counter(one.kind for one in region.operators)
    assert kinds["conv2d"] == 52
    assert kinds["dense"] == 2
    assert region.inputs[0].name == "input"
    assert region.inputs[0].device_shape == (1, 96, 96, 3)
    assert region.outputs[0].name == "logits"


def test_names_of_onnx_nodes_survive(quantized: onnx.ModelProto):
    (region,) = partition(quantized).regions
    computed = {name for one in region.operators for name in one.nodes}
    pairs = ("QuantizeLinear", "DequantizeLinear")
    assert computed == {n.name for n in quantized.graph.node if n.op_type not in pairs}
    for one in region.operators[:-1]:
        if one.kind != "flatten":
            assert one.name.encode() in region.tosa


def test_every_result_of_a_node_says_which(quantized: onnx.ModelProto):
    module = import_named(quantized)
    named = {name_of(value) for _, value in bindings(module["main"])} - {None}
    assert {node.name for node in quantized.graph.node} <= named


def test_lowering_is_reproducible(quantized: onnx.ModelProto):
    first, second = (partition(quantized).regions[0].tosa for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "h = HardSwish(x) e = Sin(h) y = Conv <pads=[1,1,1,1]> (e, w)",
            r"in front of the NPU's part or inside it there would be: Sin \(node 1 Sin\): no .*"
            r"\ntake it .*, or let a Cortex-M compute it \(--artifact c\), or use",
        ),
        (
            "y = Conv <pads=[1,1,1,1], strides=[4,4]> (x, w)",
            r"can compute nothing of this network: Conv \(node 0 Conv\): strides .*\nuse ",
        ),
        ("y = Softmax <axis=1> (x)", r"can compute nothing .*: Softmax \(node 0 \w+\): fp32"),
        (
            # TVM makes many calls of it.
            "n = InstanceNormalization (x, c, c) y = Conv <pads=[1,1,1,1]> (n, w)",
            r"inside it there would be: InstanceNormalization \([\w ]+\): its statistics.*\ntrain",
        ),
    ],
)
def test_what_the_npu_cannot_do_is_named(body: str, message: str):
    shape = "[1,16,3,3]" if "strides" in body else "[1,16,9,11]"
    model = graph_of(body, shape if "Conv" in body else "[1,8,9,11]")
    quantized, _ = quantize(model, random_inputs(model, 2), rank_layers=False)
    with pytest.raises(ModelError, match=message):
        npu_part(partition(quantized))


def test_what_interrupts_the_npu_is_listed_with_its_costs():
    model = graph_of(
        """h = HardSwish(x) e = Sin(h) f = Cos(e) t = Conv(f, p) u = Add(t, t)
        n = GlobalAveragePool(u) y = Softmax <axis=1> (n)""",
        "[1,12,1,1]",
    )
    quantized, _ = quantize(model, random_inputs(model, 2), rank_layers=False)
    parts = partition(quantized)
    left = {one.kind: one.stay for one in parts.on_cpu}
    size = 8 * 9 * 11
    costs = {
        kind: (stay.bytes_from_npu, stay.bytes_to_npu, stay.parts_before, stay.parts_behind)
        for kind, stay in left.items()
        if stay is not None
    }
    assert costs == {
        "Sin": (size, 0, 1, 0),
        "Cos": (0, size, 0, 1),
        "Softmax": (12, 0, 1, 0),
    }
    assert [one.kind for one in parts.awaited] == ["Sin", "Cos"]
    with pytest.raises(PlacementError) as caught:
        npu_part(parts, explain=True)
    first, second, *table = str(caught.value).splitlines()
    assert "Sin (node 1 Sin), Cos (node 2 Cos): no integer form" in first
    assert second.startswith("take it out of the network")
    assert [line.split("  ")[0] for line in table[1:]] == ["Sin (node 1 Sin)", "Cos (node 2 Cos)"]
    assert [one["bytes_to_npu"] for one in caught.value.details["on_cpu"]] == [0, size]


def test_a_reshape_that_moves_pixels_stays():
    model = graph_of(
        "s = Constant <value_ints=[1,11,9,8]> () r = Reshape(x, s) y = Relu(r)", "[1,11,9,8]"
    )
    quantized, _ = quantize(model, random_inputs(model, 2), rank_layers=False)
    assert "Reshape" in {one.kind for one in partition(quantized).on_cpu}


@pytest.mark.parametrize("scale", [1.0, 0.5, 1 / 3, 1e-6, 1e-12, 1000.0])
def test_a_multiplier_stands_for_its_factor(scale: float):
    factor, shift = multiplier(scale)
    assert 0 <= factor < 1 << 31
    assert 2 <= shift <= 62
    assert factor / (1 << shift) == pytest.approx(scale, rel=1e-6)


def test_too_large_a_factor_is_refused():
    with pytest.raises(ValueError, match="too large"):
        multiplier(float(1 << 40))


def test_integers_round_halves_to_even_and_saturate():
    integers = Quantization(0.5, 10).quantize(np.array([0.25, 0.75, -0.25, 1e9, -1e9], np.float32))
    assert integers.tolist() == [10, 12, 10, 127, -128]
