"""How a quantized network is cut, and its parts are written down as models."""

import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.lowering.quantization import Quantization
from mbv3c.parity.reference import run, session
from mbv3c.targets.ethos_u.c_source import StreamLayout
from mbv3c.targets.ethos_u.lowering.region import Boundary, Region
from mbv3c.targets.one_chip.forms import quantized_graph, reference_model
from mbv3c.targets.one_chip.memory import plan_places
from mbv3c.targets.one_chip.parts import Network, cut

# A stands for what the NPU computes of q, and B of s; both hand on to the CPU, which adds them.
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 2, 3, 4] x) => (float[1, 2, 3, 4] y, float[1, 2, 3, 4] z)
<float scale = {0.5}, int8 zero = {1}>
{
    [q] q_ = QuantizeLinear(x, scale, zero)
    q0 = DequantizeLinear(q_, scale, zero)
    [A] a0 = Relu(q0)
    [a] a_ = QuantizeLinear(a0, scale, zero)
    a1 = DequantizeLinear(a_, scale, zero)
    [z] z = Sin(a1)
    [s] s_ = QuantizeLinear(z, scale, zero)
    s0 = DequantizeLinear(s_, scale, zero)
    [B] b0 = Relu(s0)
    [b] b_ = QuantizeLinear(b0, scale, zero)
    b1 = DequantizeLinear(b_, scale, zero)
    y = Add(a1, b1)
}"""
SHAPE, DEVICE = (1, 2, 3, 4), (1, 3, 4, 2)


def region(name: str, reads: str, makes: str) -> Region:
    ends = [Boundary(each, SHAPE, DEVICE, Quantization(0.5, 1), each) for each in (reads, makes)]
    return Region(name, b"", (ends[0],), (ends[1],), (), (), {}, {}, (reads,))


def network(text: str = TEXT) -> Network:
    model = onnx.parser.parse_model(text)
    return cut(model, [region("A", "q", "a"), region("B", "s", "b")])


def test_parts_follow_one_another() -> None:
    parts = network().parts
    assert [(part.reads, part.makes) for part in parts] == [
        (("x",), ("q_",)),
        (("q_",), ("a_",)),
        (("a_",), ("z", "s_")),
        (("s_",), ("b_",)),
        (("a_", "b_"), ("y",)),
    ]
    # What only says the values of integers is in each part that needs it.
    assert [[node.op_type for node in part.nodes] for part in parts] == [
        ["QuantizeLinear"],
        [],
        ["DequantizeLinear", "Sin", "QuantizeLinear"],
        [],
        ["DequantizeLinear", "DequantizeLinear", "Add"],
    ]


def test_a_part_for_onnxruntime_has_integers_as_on_the_device() -> None:
    whole = network()
    model = reference_model(whole, whole.parts[2])
    x = np.arange(-12, 12, dtype=np.int8).reshape(DEVICE)
    z, s = run(session(model), x)
    wanted = np.sin((x.transpose(0, 3, 1, 2).astype(np.float32) - 1) * np.float32(0.5))
    assert np.allclose(z, wanted, atol=1e-6)
    assert np.array_equal(s, (np.rint(wanted / 0.5) + 1).transpose(0, 2, 3, 1))


def test_a_part_for_kernels_begins_and_ends_with_integers() -> None:
    whole = network()
    graph = quantized_graph(whole, whole.parts[2])
    assert [value.name for value in graph.model.graph.input] == ["a1"]
    assert graph.integer_inputs == {"a1"}
    assert graph.integer_outputs == {"s_.y"}
    assert {"a1", "s_.y"} <= graph.activations.keys()
    assert not {"QuantizeLinear", "DequantizeLinear"} & {
        node.op_type for node in graph.model.graph.node
    }


def test_what_only_the_npu_reads_lies_in_its_region() -> None:
    whole = network()
    layouts = [
        StreamLayout(b"", b"", 0, {1: 100}, {1: "arena"}, ((1, 32),), ((1, 64),)) for _ in range(2)
    ]
    places = plan_places(whole, layouts, {0: 16, 2: 32, 4: 48})
    first, second = (begins[1] for begins in places.regions)
    assert places.edges == {
        "q_": first + 32,
        "a_": first + 64,
        "s_": second + 32,
        "b_": second + 64,
    }
    # a_ is read by the last part, so that both regions are in use at once.
    assert abs(first - second) >= 112
    assert places.arena.bytes == places.arena.lower_bound == 2 * 112 + 48


def test_outputs_that_no_part_of_the_cpu_makes_are_refused() -> None:
    text = TEXT.replace("float[1, 2, 3, 4] z)", "int8[1, 2, 3, 4] b_)")
    with pytest.raises(ModelError, match="the output 'b_' is constant, an input, or int8"):
        network(text)
