"""Parts of a model: where it may be cut, and what a part is."""

from itertools import pairwise

import numpy as np
import onnx
import pytest

from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.reference import error_of_range, run, session, tensors_of
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from tests.onnx_text import graph, random
from tests.parity.small_network import SIDE, small_network


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return small_network()


@pytest.fixture(scope="module")
def quantized(network: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(network, random_inputs(network, 2), rank_layers=False)[0]


def test_blocks_meet_behind_linear_layers(network: onnx.ModelProto) -> None:
    ends = ["x", "bneck1.project.bn.out", "bneck2.residual.out", "bneck3.project.bn.out"]
    assert Parts(network).bottlenecks() == [(one, one) for one in ends]


def test_blocks_of_a_quantized_model_share_the_pair_where_they_meet(
    quantized: onnx.ModelProto,
) -> None:
    parts = Parts(quantized)
    first, *others = parts.bottlenecks()
    assert first == ("x", "x")
    assert len(others) == 3
    makers = {name: node for node in quantized.graph.node for name in node.output}
    for entry, exit_ in others:
        assert makers[exit_].op_type == "DequantizeLinear"
        assert makers[makers[exit_].input[0]].input[0] == entry
    part = parts.part(others[0][0], others[1][1])
    assert part is not None
    first_node = next(node for node in part.model.graph.node if others[0][0] in node.input)
    assert first_node.op_type == "QuantizeLinear"
    assert part.model.graph.node[-1].op_type == "DequantizeLinear"
    assert not any("Linear" in name.rsplit(".", 1)[-1] for name in part.nodes)


@pytest.mark.parametrize("kind", ["network", "quantized"])
def test_parts_one_after_the_other_compute_the_model(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    parts, x = Parts(model), random(1, 3, SIDE, SIDE)
    ends = [*parts.bottlenecks(), ("logits", "logits")]
    y = x
    for (entry, _), (_, exit_) in pairwise(ends):
        part = parts.part(entry, exit_)
        assert part is not None
        onnx.checker.check_model(part.model, full_check=True)
        (y,) = run(session(part.model), y)
        wanted = tensors_of(model, x, {exit_})[exit_]
        assert error_of_range(y, wanted) == 0


def test_a_part_brings_only_what_it_needs(network: onnx.ModelProto) -> None:
    part = Parts(network).part("bneck1.project.bn.out", "bneck2.expand.bn.out")
    assert part is not None
    assert part.nodes == ["bneck2.expand.conv", "bneck2.expand.bn"]
    assert len(part.model.graph.initializer) == 5
    assert [one.name for one in part.model.graph.output] == ["bneck2.expand.bn.out"]


@pytest.mark.parametrize(
    ("entry", "exit_"),
    [
        ("bneck2.project.bn.out", "bneck2.residual.out"),  # which adds what came before
        ("bneck1.se.relu.out", "bneck1.se.scale.out"),  # which scales what came before
        ("bneck2.residual.out", "bneck1.project.bn.out"),
        ("x", "x"),
    ],
)
def test_what_reads_more_than_one_tensor_is_no_part(
    network: onnx.ModelProto, entry: str, exit_: str
) -> None:
    assert Parts(network).part(entry, exit_) is None


def test_no_blocks_meet_where_two_tensors_lead_on() -> None:
    model = graph(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y, float[1, 2, 4, 4] z) {
            [a] a = Conv(x, w)
            [b] b = Conv(a, w)
            [y] y = Conv(b, w)
            [z] z = Relu(a)
        }""",
        w=np.ones((2, 2, 1, 1), np.float32),
    )
    assert Parts(model).bottlenecks() == [("x", "x"), ("a", "a")]  # and not b
