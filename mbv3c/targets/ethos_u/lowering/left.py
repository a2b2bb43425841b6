"""What an NPU leaves to the CPU, node by node of the ONNX model, with what each costs.

A node that stays in the NPU's part interrupts it: what the NPU has computed goes to the CPU, and
what the CPU makes of it goes back. The bytes are those of int8.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod

import onnx

from mbv3c.graphs.count import tensor_shapes
from mbv3c.targets.ethos_u.lowering.reasons import BEHIND_THE_CUT, reason_of
from mbv3c.targets.ethos_u.lowering.region import Operator, Region, Stay

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def left_operators(
    model: onnx.ModelProto,
    regions: Sequence[Region],
    ends: Sequence[Operator],
    behind: Sequence[Region] = (),
) -> tuple[Operator, ...]:
    """List the nodes of a model with QDQ pairs that no region computes, in order.

    Constants, the pairs themselves and `ends`, conversions of inputs and outputs, are left out.
    `behind` are regions that the NPU could compute, but for what is on the CPU in front of them.
    """
    graph = _Graph(model, _owners(regions), frozenset(_owners(behind)))
    at_ends = {name for end in ends for name in end.nodes}
    return tuple(
        graph.left(node)
        for node in model.graph.node
        if graph.is_left(node) and node.name not in at_ends
    )


def _owners(regions: Sequence[Region]) -> dict[str, int]:
    return {
        name: number
        for number, region in enumerate(regions)
        for operator in region.operators
        for name in operator.nodes
    }


class _Graph:
    """A model with the numbers of the regions that compute its nodes, by their names."""

    def __init__(
        self, model: onnx.ModelProto, owners: Mapping[str, int], behind: frozenset[str]
    ) -> None:
        self._owners, self._behind = owners, behind
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._model = model
        self._readers = defaultdict[str, list[onnx.NodeProto]](list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        stored = {tensor.name for tensor in model.graph.initializer}
        computed = {value.name for value in model.graph.input if value.name not in stored}
        self._quantized: set[str] = set()
        waited: set[str] = set()
        for node in model.graph.node:
            if computed & set(node.input):
                computed.update(node.output)
            if node.op_type == _PAIR[0]:
                self._quantized.add(node.input[0])
        for node in reversed(model.graph.node):
            if node.name in owners or waited & set(node.output):
                waited.update(node.input)
        self._computed, self._waited = computed, waited

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return tensor_shapes(self._model)

    def is_left(self, node: onnx.NodeProto) -> bool:
        """Say whether the CPU computes a node."""
        if node.op_type in _PAIR or node.name in self._owners:
            return False
        return bool(self._computed & set(node.output)) or node.op_type != "Constant"

    def left(self, node: onnx.NodeProto) -> Operator:
        """Say what a node costs that the CPU computes."""
        quantized = any(name in self._quantized for name in node.output)
        reason = reason_of(node.op_type, quantized=quantized)
        if node.name in self._behind:
            reason = BEHIND_THE_CUT
        before: set[int] = set()
        behind: set[int] = set()
        taken = given = 0
        for name in dict.fromkeys(self._source(each) for each in node.input if each):
            maker = self._makers.get(name)
            if maker is not None and maker.name in self._owners:
                before.add(self._owners[maker.name])
                taken += self._size(name)
        for name in node.output:
            readers = {self._owners[each] for each in self._read_by(name) if each in self._owners}
            behind |= readers
            given += self._size(name) if readers else 0
        name = node.name or f"{node.op_type}_{node.output[0]}"
        stay = Stay(
            reason.why,
            reason.change,
            taken,
            given,
            len(before),
            len(behind),
            is_awaited=bool(self._waited & set(node.output)),
        )
        return Operator(name, (name,), node.op_type, on_npu=False, stay=stay)

    def _source(self, name: str) -> str:
        """Return the tensor that pairs only quantize and dequantize."""
        while (maker := self._makers.get(name)) is not None and maker.op_type in _PAIR:
            name = maker.input[0]
        return name

    def _read_by(self, name: str) -> list[str]:
        """Return the names of the nodes that read a tensor, also behind pairs."""
        found = []
        for node in self._readers[name]:
            pair = node.op_type in _PAIR
            found += self._read_by(node.output[0]) if pair else [node.name]
        return found

    def _size(self, name: str) -> int:
        return prod(self._shapes.get(name, (0,)))
