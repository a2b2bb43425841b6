"""What passes have in common that write one node as several others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from mbv3c.graphs.constants import constants_of
from mbv3c.graphs.count import tensors_read
from mbv3c.passes.names import FreeNames
from mbv3c.passes.report import PassReport, Refusal
from mbv3c.passes.upgrade_opset import DEFAULT_DOMAINS, opset_of

Spell = Callable[["Spelling"], None]

_AXES_ARE_INPUTS = {"ReduceSum": 13}  # of the others from 18 on


class StaysError(Exception):
    """Why a node keeps its spelling."""


class KeptError(Exception):
    """A node keeps its spelling since nothing is wrong with it: that is no refusal."""


def spell_nodes(
    model: onnx.ModelProto, name: str, spellings: Mapping[str, Spell]
) -> tuple[onnx.ModelProto, PassReport]:
    """Write every node anew whose operator has a spelling, unless the spelling refuses it.

    Args:
        model: the model, which is returned itself if nothing is rewritten.
        name: name of the pass.
        spellings: for each operator what writes it; a StaysError says why it does not.
    """
    before = len(model.graph.node)
    if not any(_is_meant(node, spellings) for node in model.graph.node):
        return model, PassReport(name, (), (), before, before, False)
    copy = shape_inference.infer_shapes(model)
    around = _Around(copy)
    nodes, matched, refused = list[onnx.NodeProto](), list[str](), list[Refusal]()
    for node in copy.graph.node:
        if not _is_meant(node, spellings):
            nodes.append(node)
            continue
        spelling = Spelling(node, around)
        try:
            spellings[node.op_type](spelling)
        except KeptError:
            nodes.append(node)
            continue
        except StaysError as error:
            refused.append(Refusal(node.name or node.output[0], str(error)))
            nodes.append(node)
            continue
        nodes.extend(spelling.nodes)
        copy.graph.initializer.extend(spelling.constants)
        matched.append(node.name or node.op_type)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    after = len(nodes) if matched else before
    report = PassReport(name, tuple(matched), tuple(refused), before, after, bool(matched))
    return (copy if matched else model), report


def _is_meant(node: onnx.NodeProto, spellings: Mapping[str, Spell]) -> bool:
    return node.domain in DEFAULT_DOMAINS and node.op_type in spellings


class _Around:
    """What is known of a graph whose shapes are inferred."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.opset, self.free = opset_of(model), FreeNames(graph).take
        self.stored = constants_of(graph)
        self.read = {name for node in graph.node for name in tensors_read(node)}
        self.read |= {value.name for value in graph.output}
        self.types = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }


class Spelling:
    """A node, and what stands in its place.

    Attributes:
        inputs: names of the node's inputs; empty where one is left out in the middle.
        outputs: names of the outputs that the node has; empty where one is left out.
        opset: version of the model's default operator set.
        nodes: the new nodes, so far.
        constants: what the new nodes read.
    """

    def __init__(self, node: onnx.NodeProto, around: _Around) -> None:
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.opset = around.opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._around = around
        self._attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._own = next(output for output in node.output if output)
        self._name = node.name or self._own

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute; text comes as text."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    @property
    def attributes(self) -> dict[str, Any]:
        """The node's attributes, as they are stored."""
        return self._attributes

    def input(self, position: int) -> str:
        """Return the name of an input; empty if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def output(self, position: int) -> str:
        """Return the name of an output; empty if it is left out."""
        return self.outputs[position] if position < len(self.outputs) else ""

    def is_read(self, position: int) -> bool:
        """Say whether an output is there, and another node or the graph's end reads it."""
        return bool(self.output(position)) and self.output(position) in self._around.read

    def since(self, opset: int) -> None:
        """Make sure that the model's opset has what is to be written.

        Raises:
            StaysError: it is older.
        """
        if self.opset < opset:
            raise StaysError(f"what it is made of needs opset {opset}, the model has {self.opset}")

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            StaysError: it is not known before the model runs.
        """
        if name in self._around.stored:
            return tuple(self._around.stored[name].dims)
        kind = self._around.types.get(name)
        if kind is None or not kind.HasField("shape"):
            raise StaysError(f"the shape of {name!r} is not known")
        sizes = tuple(dim.dim_value for dim in kind.shape.dim)
        if not all(sizes):
            raise StaysError(f"the shape of {name!r} is not fixed")
        return sizes

    def dtype(self, name: str, *, among: Sequence[int] = (TensorProto.FLOAT,)) -> np.dtype[Any]:
        """Return the type of a tensor's elements.

        Raises:
            StaysError: it is none of those that are allowed.
        """
        number = self.kind(name)
        if number not in among:
            allowed = ", ".join(TensorProto.DataType.Name(each) for each in among)
            found = TensorProto.DataType.Name(number)
            raise StaysError(f"it computes in {found}; this pass knows {allowed}")
        return helper.tensor_dtype_to_np_dtype(number)

    def kind(self, name: str) -> int:
        """Return the element type of a tensor, by ONNX's number."""
        if name in self._around.stored:
            return self._around.stored[name].data_type
        known = self._around.types.get(name)
        return TensorProto.UNDEFINED if known is None else known.elem_type

    def value(self, name: str, what: str) -> NDArray[Any]:
        """Return a constant.

        Raises:
            StaysError: it is computed when the model runs.
        """
        if name not in self._around.stored:
            raise StaysError(f"{what}, {name!r}, cannot be computed before the model runs")
        return numpy_helper.to_array(self._around.stored[name])

    def stored(self, name: str) -> int | None:
        """Return the element type of a constant; None of what is computed."""
        tensor = self._around.stored.get(name)
        return None if tensor is None else tensor.data_type

    def store(self, array: NDArray[Any], what: str) -> str:
        """Store a constant and return its name."""
        name = self._around.free(f"{self._own}.{what}")
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def add(self, op_type: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Append a node and return its output, which gets a new name unless one is given."""
        return self.split(op_type, *inputs, outs=[out], **attributes)[0]

    def split(
        self, op_type: str, *inputs: str, outs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Append a node of several outputs and return them; empty names become new ones."""
        step = f"{op_type.lower()}{len(self.nodes)}"
        names = [
            out or self._around.free(f"{self._own}.{step}{f'.{i}' if i else ''}")
            for i, out in enumerate(outs)
        ]
        own = self._own in names
        name = self._name if own else self._around.free(f"{self._name}.{step}")
        self.nodes.append(helper.make_node(op_type, inputs, names, name, **attributes))
        return names

    def reshaped(self, x: str, shape: str) -> str:
        """Return a tensor in a stored shape; a constant becomes one of that shape."""
        if x not in self._around.stored:
            return self.add("Reshape", x, shape)
        sizes = next(t for t in self.constants if t.name == shape)
        values = numpy_helper.to_array(self._around.stored[x])
        return self.store(values.reshape(numpy_helper.to_array(sizes)), "reshaped")

    def reduce(
        self, op_type: str, x: str, axes: Sequence[int], *, keepdims: int, out: str = ""
    ) -> str:
        """Append a reduction, whose axes became an input in some opset."""
        if self.opset < _AXES_ARE_INPUTS.get(op_type, 18):
            return self.add(op_type, x, axes=list(axes), keepdims=keepdims, out=out)
        stored = self.store(np.array(axes, np.int64), "axes")
        return self.add(op_type, x, stored, keepdims=keepdims, out=out)
