"""Write QuantizeLinear/DequantizeLinear pairs in one way: int8, with explicit zero points.

    Q(x, s, uint8 z) → DQ(s, z)            ⇒   Q(x, s, int8 z − 128) → DQ(s, z − 128)
    DQ(stored uint8 w, s, z)               ⇒   DQ(stored int8 w − 128, s, z − 128)
    DQ(stored int8 w, s, z), w − z fits    ⇒   DQ(stored int8 w − z, s, 0)
    Q(stored fp32 w, s, z) → DQ(s, z)      ⇒   DQ(stored int8 w, s, z)
    Q(x, s) or DQ(q, s) without z          ⇒   the same with z = 0

All of these are exact: the values that the integers stand for do not change, and QuantizeLinear
rounds and saturates at the same places. onnxruntime's quantizer writes uint8, torch's
FakeQuantize leaves weights in fp32. Integers that something else than a DequantizeLinear reads,
and those of 16 bits, stay as they are. What `inside_pairs` mends comes behind the weights. Source:
ONNX operators QuantizeLinear-13 and DequantizeLinear-13.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.passes.inside_pairs import mended
from mbv3c.passes.names import FreeNames, inner_reads
from mbv3c.passes.report import PassReport

NAME = "canonical_qdq"

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_SHIFT = 128  # between uint8 and int8


def canonical_qdq(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite the pairs of a quantized graph; a graph without pairs stays as it is."""
    before = len(model.graph.node)
    if not any(node.op_type in (_Q, _DQ) for node in model.graph.node):
        return model, PassReport(NAME, (), (), before, before, False)
    given, stored = model, _Pairs(model)
    stored.store_weights()
    stored.finish()
    model, names = mended(stored.model if stored.matched else given)
    pairs = _Pairs(model)
    pairs.matched += [*stored.matched, *names]
    pairs.shift_activations()
    pairs.shift_weights()
    pairs.finish()
    after = len(pairs.model.graph.node)
    report = PassReport(NAME, tuple(pairs.matched), (), before, after, bool(pairs.matched))
    return (pairs.model if pairs.matched else given), report


class _Pairs:
    """The pairs of a copy of a model.

    Attributes:
        model: the copy.
        matched: names of the nodes that were written anew.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.matched: list[str] = []
        self._graph = self.model.graph
        self._stored = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.initializer
        }
        self._readers = defaultdict[str, list[onnx.NodeProto]](list)
        for node in self._graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._outputs = {output.name for output in self._graph.output} | inner_reads(self._graph)
        self._free = FreeNames(self._graph)
        self._stored_now: set[str] = set()  # what nodes made before
        self._shifted: set[str] = set()  # what is of another type now

    def store_weights(self) -> None:
        """Compute what QuantizeLinear makes of stored fp32 values."""
        for node in self._graph.node:
            values = self._stored.get(node.input[0]) if node.op_type == _Q else None
            scale, zero = self._scale(node), self._zero(node)
            if values is None or scale is None or zero is None or values.dtype != np.float32:
                continue
            if zero.dtype not in (np.int8, np.uint8) or node.output[0] in self._outputs:
                continue
            axis = _axis_of(node, values.ndim)
            steps, offset = (_along(x, axis, values.ndim) for x in (scale, zero))
            limits = np.iinfo(zero.dtype)
            integers = np.clip(np.rint(values / steps) + offset, limits.min, limits.max)
            self._store(integers.astype(zero.dtype), node.output[0])
            self._stored_now.add(node.output[0])
            self.matched.append(node.name or node.output[0])

    def shift_activations(self) -> None:
        """Make int8 pairs of those that are uint8 or say no zero point."""
        for node in self._graph.node:
            if node.op_type != _Q or node.output[0] in self._stored_now:
                continue
            zero = self._zero(node)
            readers = self._readers[node.output[0]]
            if zero is None or zero.dtype != np.uint8 or node.output[0] in self._outputs:
                continue
            zeros = [self._zero(reader, np.uint8) for reader in readers]
            if not readers or any(reader.op_type != _DQ for reader in readers):
                continue
            if any(other is None or other.dtype != np.uint8 for other in zeros):
                continue
            for each in (node, *readers):
                self._set_zero(each, self._zero(each, np.uint8))
            self._shifted.add(node.output[0])
            self.matched.append(node.name or node.output[0])

    def shift_weights(self) -> None:
        """Make stored integers int8, with the zero point 0 where that is exact."""
        for node in self._graph.node:
            integers = self._stored.get(node.input[0]) if node.op_type == _DQ else None
            if integers is None or integers.dtype not in (np.int8, np.uint8):
                continue
            zero = self._zero(node, integers.dtype)
            if zero is None or zero.dtype != integers.dtype:
                continue
            if integers.dtype == np.int8 and len(node.input) > 2 and not zero.any():
                continue
            centred = integers.astype(np.int16) - _along(
                zero.astype(np.int16), _axis_of(node, integers.ndim), integers.ndim
            )
            if np.abs(centred).max(initial=0) <= np.iinfo(np.int8).max:
                new, new_zero = centred, np.zeros_like(zero, np.int16)
            elif integers.dtype == np.uint8:
                new, new_zero = integers.astype(np.int16) - _SHIFT, zero.astype(np.int16) - _SHIFT
            else:
                continue
            name = self._free.take(f"{node.output[0]}.integers")
            self._store(new.astype(np.int8), name)
            node.input[0] = name
            self._set_zero(node, new_zero.astype(np.int8))
            self.matched.append(node.name or node.output[0])

    def finish(self) -> None:
        """Drop the nodes whose outputs are stored now, and the types that no longer hold."""
        kept = [node for node in self._graph.node if node.output[0] not in self._stored_now]
        types = [value for value in self._graph.value_info if value.name not in self._shifted]
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(kept)
        self._graph.value_info.extend(types)

    def _scale(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        return self._stored.get(node.input[1]) if node.op_type in (_Q, _DQ) else None

    def _zero(
        self, node: onnx.NodeProto, default: type[np.generic] | np.dtype[Any] = np.uint8
    ) -> NDArray[Any] | None:
        """Return a zero point; 0 where there is none, in the type that the node then has."""
        scale = self._scale(node)
        if scale is None or any(attribute.name == "block_size" for attribute in node.attribute):
            return None
        if len(node.input) > 2 and node.input[2]:
            return self._stored.get(node.input[2])
        if any(attribute.name == "output_dtype" and attribute.i for attribute in node.attribute):
            return None
        return np.zeros(scale.shape, default)

    def _set_zero(self, node: onnx.NodeProto, zero: NDArray[Any] | None) -> None:
        assert zero is not None
        if zero.dtype == np.uint8:
            zero = (zero.astype(np.int16) - _SHIFT).astype(np.int8)
        name = self._free.take(f"{node.output[0]}.zero")
        self._store(zero, name)
        inputs = [*node.input[:2], name]
        del node.input[:]
        node.input.extend(inputs)

    def _store(self, array: NDArray[Any], name: str) -> None:
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        self._stored[name] = array


def _axis_of(node: onnx.NodeProto, rank: int) -> int:
    axes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"]
    return int((axes or [1])[0]) % max(1, rank)


def _along(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Lay out one number, or one per index along an axis, to broadcast over a tensor."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if dim == axis else 1 for dim in range(rank)])
