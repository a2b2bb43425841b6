"""Random models out of the blocks and spellings of foreign ones, by seed."""

import numpy as np
import onnx
from onnx import helper

from tests.foreign_blocks import BLOCKS
from tests.foreign_models import Net, constants_as_nodes

_MOST_BLOCKS = 3
_NEWEST = 22
_OF_ONE_SIZE = (
    *("Conv of one dimension", "self-attention", "coordinate attention", "Expand"),
    *("LSTM", "GRU", "RNN", "LSTM in both directions"),
)
_SHRINKING = ("rounded up", "odd window", "3x3", "dilated", "lopsided")


def variation(seed: int) -> onnx.ModelProto:
    """Return a model that onnxruntime loads: other operators, opsets, spellings and names."""
    random = np.random.default_rng(seed)
    names = random.choice(list(BLOCKS), random.integers(1, _MOST_BLOCKS + 1), replace=False)
    opset = int(random.integers(max(BLOCKS[name][0] for name in names), _NEWEST + 1))
    net = Net(opset=opset, ir_version=int(random.integers(8, 11)), random=random)
    x, small = net.trunk(swish=str(random.choice(["Relu", "Sigmoid", "Identity"]))), False
    for name in names:
        if name in _OF_ONE_SIZE and small:
            continue  # these say the size of the map
        x = BLOCKS[name][1](net, x)
        small = True
        if random.random() < 0.3:
            x = net.add("Identity", x)
    y = net.head(x)
    outputs = [net.add("Softmax", y, axis=1)] if random.random() < 0.3 else [y]
    if random.random() < 0.2:
        outputs.append(net.add("Identity", y))
    model = net.model(*outputs)
    if random.random() < 0.3:
        model = constants_as_nodes(model)
    elif random.random() < 0.3:
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
    if random.random() < 0.3:
        for node in model.graph.node:
            node.name = ""
    return model
