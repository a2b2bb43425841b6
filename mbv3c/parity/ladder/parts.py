"""Parts of a model with one output, for comparing a stage on less and less.

A part is what computes one tensor, up to one tensor that is given instead:

    … → entry → Conv → Relu → exit → …   ⇒   entry → Conv → Relu → exit

Nothing within it becomes an output, so that a stage fuses there what it fuses in the whole. Of a
quantized model a part takes the pair of its entry along, and that of its exit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, shape_inference

from mbv3c.graphs.load import model_inputs

_PAIR = ("QuantizeLinear", "DequantizeLinear")
# What may stand between the end of a linear bottleneck and the next convolution.
_TRANSPARENT = (*_PAIR, "BatchNormalization", "Identity")
_LINEAR = ("Conv", "Add")


@dataclass(frozen=True)
class ModelPart:
    """A part of a model.

    Attributes:
        entry: the tensor of the model that is its input.
        exit: the tensor of the model that is its output.
        model: the part by itself; its tensors and nodes have the names of the model's.
    """

    entry: str
    exit: str
    model: onnx.ModelProto

    @property
    def entries(self) -> tuple[str, ...]:
        """The tensors that are its inputs: several where it begins with the model's inputs."""
        return tuple(value.name for value in self.model.graph.input)

    @property
    def nodes(self) -> list[str]:
        """The names of its nodes, but for those that only quantize."""
        return [
            node.name or f"→ {node.output[0]}"
            for node in self.model.graph.node
            if node.op_type not in _PAIR
        ]

    @property
    def size(self) -> int:
        return len(self.model.graph.node)


class Parts:
    """All parts of a model.

    Attributes:
        model: the model, with the shapes of its tensors.
        input: the first tensor that enters; a part that begins there has all inputs it needs.
        tensors: the fp32 tensors that depend on the inputs, in the order in which they are made.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = shape_inference.infer_shapes(model)
        graph = self.model.graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = [value.name for value in model_inputs(model)]
        self.input = self._inputs[0]
        self._types = {val.name: val for val in (*graph.input, *graph.value_info, *graph.output)}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self._users.setdefault(name, []).append(node)
        self._computed = self._depending_on_input()
        self.tensors = [name for name in self._computed if self._can_be_fed(name)]

    def part(self, entry: str, exit_: str) -> ModelPart | None:
        """Return what computes `exit_` of `entry`; None if that takes other tensors, too."""
        given = {*self._inputs} if entry == self.input else {entry}
        needed, waiting = {exit_}, [exit_]
        nodes: set[int] = set()
        while waiting:
            name = waiting.pop()
            if name in given:
                continue
            maker = self._makers.get(name)
            if maker is None:
                if name not in self._stored:
                    return None
                continue
            nodes.add(id(maker))
            for source in filter(None, maker.input):
                if source not in needed:
                    needed.add(source)
                    waiting.append(source)
        entries = [name for name in self._inputs if name in needed & given]
        if entry not in self._inputs:
            entries = [entry]
        if not needed & given or exit_ in given:
            return None
        kept = [node for node in self.model.graph.node if id(node) in nodes]
        return ModelPart(entry, exit_, self._cut_out(entries, exit_, kept, needed))

    def bottlenecks(self) -> list[tuple[str, str]]:
        """Return where blocks meet, in order: the tensor as an entry, and as an exit.

        That is where one tensor alone leads on and a convolution follows a linear layer. First
        comes the model's input.
        """
        made = {name: at for at, node in enumerate(self.model.graph.node) for name in node.output}
        ends = {output.name for output in self.model.graph.output}
        last = {
            name: max([made[user.output[0]] for user in self._users.get(name, [])], default=-1)
            for name in self._computed
            if name not in ends
        }
        places = [(self.input, self.input)]
        for name in self.tensors:
            at = made[name]
            only_one_alive = all(
                made.get(other, -1) > at or until <= at or other == name
                for other, until in (last | dict.fromkeys(ends, len(made))).items()
            )
            if only_one_alive and name not in ends and self._meets_block(name):
                places.append((self.unquantized(name), name))
        return places

    def unquantized(self, name: str) -> str:
        """Return the tensor of which a pair makes `name`; `name` where no pair does."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return name
        before = self._makers.get(maker.input[0])
        return before.input[0] if before is not None else name

    def is_quantized(self, name: str) -> bool:
        """Tell whether a tensor is only an input of a pair, and of nothing else."""
        users = self._users.get(name, [])
        return bool(users) and all(user.op_type == "QuantizeLinear" for user in users)

    def _meets_block(self, name: str) -> bool:
        if self.is_quantized(name):
            return False  # the tensor behind the pair is the one
        maker = self._makers[name]
        while maker.op_type in _TRANSPARENT and maker.input[0] in self._makers:
            maker = self._makers[maker.input[0]]
        return maker.op_type in _LINEAR and any(
            user.op_type == "Conv" for user in self._seen_users(name)
        )

    def _seen_users(self, name: str) -> Iterator[onnx.NodeProto]:
        for user in self._users.get(name, []):
            if user.op_type in _PAIR:
                yield from self._seen_users(user.output[0])
            else:
                yield user

    def _depending_on_input(self) -> dict[str, None]:
        depending = dict.fromkeys(self._inputs)
        for node in self.model.graph.node:
            if any(name in depending for name in node.input):
                depending.update(dict.fromkeys(name for name in node.output if name))
        return depending

    def _can_be_fed(self, name: str) -> bool:
        if name not in self._types or name in self._inputs:
            return False
        kind = self._types[name].type.tensor_type
        known = kind.HasField("shape") and all(d.dim_value > 0 for d in kind.shape.dim)
        return known and kind.elem_type == TensorProto.FLOAT

    def _cut_out(
        self, entries: list[str], exit_: str, nodes: Sequence[onnx.NodeProto], needed: set[str]
    ) -> onnx.ModelProto:
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        graph = part.graph
        for field in ("node", "input", "output", "initializer", "value_info"):
            graph.ClearField(field)
        graph.name = "part"
        graph.node.extend(nodes)
        graph.input.extend(self._types[entry] for entry in entries)
        graph.output.append(self._types[exit_])
        graph.initializer.extend(self._stored[name] for name in sorted(needed & {*self._stored}))
        part.ClearField("metadata_props")
        return part
