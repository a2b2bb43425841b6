"""A recurrent layer that an NPU would wait for is refused before it is unrolled."""

import onnx
import pytest

from mbv3c.targets.ethos_u.loops import check_loops
from mbv3c.targets.ethos_u.placement import PlacementError
from tests.foreign_blocks import BLOCKS, with_block
from tests.foreign_models import Net, constants_as_nodes


@pytest.mark.parametrize("as_nodes", [False, True], ids=["stored", "Constant"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layers_of_the_npu_behind_a_loop_would_wait(kind: str, *, as_nodes: bool):
    model = with_block(kind)
    with pytest.raises(
        PlacementError, match=rf"{kind} \({kind.lower()}\d+\): a loop over"
    ) as seen:
        check_loops(constants_as_nodes(model) if as_nodes else model)
    (left,) = seen.value.details["on_cpu"]
    assert left["bytes_from_npu"] == 64 * 32


def test_one_behind_the_most_of_the_work_is_left_to_the_cpu():
    check_loops(with_block("LSTM in both directions"))


def test_one_at_the_end_is_left_to_the_cpu():
    model = with_block("LSTM")
    (loop,) = (node for node in model.graph.node if node.op_type == "LSTM")
    place = list(model.graph.node).index(loop)
    del model.graph.node[place + 1 :]
    shape = (64, 1, 1, 16)
    output = onnx.helper.make_tensor_value_info(loop.output[0], onnx.TensorProto.FLOAT, shape)
    model.graph.output[0].CopyFrom(output)
    check_loops(model)


def test_other_networks_are_not_looked_at_closely():
    for name in BLOCKS.keys() - {"LSTM", "GRU", "RNN"}:
        check_loops(with_block(name))


def test_shapes_that_onnx_does_not_know_yet_are_no_fault():
    net = Net(opset=21)
    turned = BLOCKS["GRU"][1](net, net.trunk())
    check_loops(net.model(net.head(BLOCKS["GroupNormalization"][1](net, turned))))
