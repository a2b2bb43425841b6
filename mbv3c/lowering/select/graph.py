"""What can be asked of a graph as a whole: shapes and types of tensors, and who reads them."""

from math import prod

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.errors import ModelError
from mbv3c.lowering.qdq import QuantizedGraph

IMAGE_RANK = 4  # of [N, C, H, W]


class Graph:
    """A graph with fixed shapes.

    Attributes:
        model: the ONNX model, with the shapes and types of its tensors.
        types: shape and element type of every tensor, by name.
        stored: constants, by name.
        outputs: names of the tensors that leave the graph.
        steps: the rounding of tensors to int8, by name; empty for a network of floats.
        integers: stored int8 weights, by name.
        integer_inputs, integer_outputs: images that enter or leave as int8, channels last.
    """

    def __init__(self, quantized: QuantizedGraph) -> None:
        self.model = shape_inference.infer_shapes(quantized.model)
        self.steps, self.integers = dict(quantized.activations), quantized.weights
        self.integer_inputs = quantized.integer_inputs
        self.integer_outputs = quantized.integer_outputs
        graph = self.model.graph
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.types = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.outputs = [value.name for value in graph.output]
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self._users.setdefault(name, []).append(node)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of a tensor, as ONNX has them.

        Raises:
            ModelError: they are unknown or not fixed.
        """
        declared = self.types.get(name)
        if declared is None or not declared.HasField("shape"):
            raise ModelError(self._without_shape(name, "is not known"))
        if not all(dim.HasField("dim_value") for dim in declared.shape.dim):
            raise ModelError(self._without_shape(name, "is dynamic"))
        return tuple(dim.dim_value for dim in declared.shape.dim)

    def check_filled(self) -> None:
        """Make sure that all outputs and computed tensors hold something: no kernel makes nothing.

        Raises:
            ModelError: a tensor has no elements.
        """
        makers = {name: node for node in self.model.graph.node for name in node.output}
        for name in (*self.outputs, *makers):
            dims = self.types[name].shape.dim if name in self.types else ()
            if any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in dims):
                shape = ", ".join(
                    str(dim.dim_value) if dim.HasField("dim_value") else "?" for dim in dims
                )
                by = f", made by {makers[name].op_type}," if name in makers else ""
                raise ModelError(
                    f"{name!r}{by} has the shape ({shape}), which holds no numbers: leave "
                    "it out of the export, or give the input a larger shape with --input-shape"
                )

    def _without_shape(self, name: str, reason: str) -> str:
        for node in self.model.graph.node:
            if name in node.output:
                return (
                    f"{node.op_type} (node {node.name or '→ ' + name}): the shape of its output "
                    f"{reason}, because it depends on values or the operator is not ONNX's own; "
                    "mbv3c needs fixed shapes: end the export before this node"
                )
        return f"the shape of {name!r} {reason}; fix it with --input-shape"

    def dtype(self, name: str) -> str:
        return helper.tensor_dtype_to_np_dtype(self.types[name].elem_type).name

    def is_value(self, name: str) -> bool:
        """Say whether a tensor is computed: neither stored nor left out."""
        return bool(name) and name not in self.stored

    def is_float(self, name: str) -> bool:
        return name in self.types and self.types[name].elem_type == TensorProto.FLOAT

    def is_image(self, name: str) -> bool:
        return len(self.shape(name)) == IMAGE_RANK

    def is_flat(self, name: str) -> bool:
        """Say whether both layouts of a tensor are the same memory."""
        shape = self.shape(name)
        return len(shape) != IMAGE_RANK or shape[1] == 1 or prod(shape[2:]) == 1

    def users(self, name: str) -> list[onnx.NodeProto]:
        return self._users.get(name, [])

    def only_user(self, name: str) -> onnx.NodeProto | None:
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def float_follower(self, name: str) -> onnx.NodeProto | None:
        """Return the only user of a tensor, unless the tensor is rounded first.

        A kernel that computes both nodes in floats would leave the rounding out.
        """
        return None if name in self.steps else self.only_user(name)
