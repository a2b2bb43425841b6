"""Which layers get kernels that read weights in bf16 or int8, as `--dense-weights` asks.

The weights of the graph are rounded already, see `mbv3c.graphs.narrow`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from mbv3c.graphs.narrow import dense_layers
from mbv3c.lowering.plan import Kernel
from mbv3c.lowering.select.nodes import Branch, product_of
from mbv3c.lowering.select.selection import fused_product
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite
from mbv3c.targets.cpu.schedules.stored_pointwise import StoredPointwise
from mbv3c.targets.cpu.schedules.stored_squeeze_excite import StoredSqueezeExcite

if TYPE_CHECKING:
    from mbv3c.targets.cpu.kernels import CpuSelection


@dataclass(frozen=True)
class StoredLayers:
    """The layers whose weights are stored in another type than that of the network.

    Attributes:
        stored: the type, one of `mbv3c.graphs.narrow.STORED`; empty for no layer.
        outputs: the names of the tensors that the layers make.
    """

    stored: str = ""
    outputs: frozenset[str] = frozenset()

    def has(self, *nodes: onnx.NodeProto) -> bool:
        """Say whether all of some nodes are among the layers."""
        return all(node.output[0] in self.outputs for node in nodes)


NOTHING = StoredLayers()


def stored_layers(model: onnx.ModelProto, stored: str) -> StoredLayers:
    """Return the dense layers of a rewritten graph, where their weights are to be `stored`."""
    if not stored:
        return NOTHING
    names = frozenset(layer.node.output[0] for layer in dense_layers(model))
    return StoredLayers(stored, names)


def stored_pointwise_rule(node: onnx.NodeProto, selection: "CpuSelection") -> bool:
    """Take a dense layer whose weights are stored, with an activation and a sum after it."""
    if not selection.layers.has(node):
        return False
    product = product_of(node, selection.graph)
    if product is None:
        return False
    x = selection.value(node.input[0], channels_last=product.channels_last)
    covered, plain, addends = fused_product(node, product, selection)
    shape = StoredPointwise(**vars(plain), stored=selection.layers.stored)
    kernel = selection.kernels.stored_pointwise(shape, product.weights, product.bias)
    selection.emit("stored_pointwise", covered, kernel, (x,), shape.madds, after=addends)
    return True


def squeeze_excite_kernel(
    shape: SqueezeExcite, branch: Branch, selection: "CpuSelection"
) -> tuple[str, Kernel]:
    """Return the kind and the kernel of a squeeze-and-excitation branch."""
    given = branch.w1, branch.b1, branch.w2, branch.b2
    _, squeeze, _, excite, *_ = branch.nodes
    if not selection.layers.has(squeeze, excite):
        return "squeeze_excite", selection.kernels.squeeze_excite(shape, *given)
    stored = StoredSqueezeExcite(**vars(shape), stored=selection.layers.stored)
    return "stored_squeeze_excite", selection.kernels.stored_squeeze_excite(stored, *given)
