"""The architecture of a network, where a file can say it."""

import onnx
from onnx import shape_inference

from mbv3c.graphs.architecture import Architecture
from mbv3c.graphs.blocks import MismatchError, read_architecture
from mbv3c.graphs.skeleton import skeleton


def layers_of(model: onnx.ModelProto) -> Architecture | str:
    """Return the architecture with which `build` makes these layers, or why there is none.

    A cut may leave layers that no architecture can say: an expansion that is as wide as the
    block's input, which `build` leaves out; or an output that is as wide as the input, to which
    `build` adds it.
    """
    try:
        steps = skeleton(model)
        network, head, _ = read_architecture(steps)
    except MismatchError as mismatch:
        return str(mismatch)
    except shape_inference.InferenceError:
        return "the shapes in it do not all follow from its input"
    if head != "classify":
        return f"its head is {head or 'another'}, and an architecture has the classifier's tail"
    channels, layers = network.stem, 2 + bool(network.hidden) + bool(network.last_conv)
    for block in network.blocks:
        layers += (block.expand != channels) + 2 + 2 * (block.squeeze > 0)
        channels = block.out
    if layers != sum(step.conv is not None for step in steps):
        return "a block's expansion is as wide as its input, and would be left out"
    return network
