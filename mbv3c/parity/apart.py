"""The nodes behind every kernel as models of their own, side by side in one.

    x → Conv → a → HardSigmoid → b → Conv → c    ⇒    0/x → Conv → HardSigmoid → 0/b
                                                      1/b → Conv → 1/c

Kernels 0 and 1 are cut apart, so each can be fed with any tensors, and onnxruntime says in one
inference what all of them should make of those. Where an activation is flat on the network's own
tensors, as the gates of squeeze-and-excite often are, other tensors are drawn until it answers.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3c.lowering.describe import KernelRecord
from mbv3c.parity.reference import session

Array = NDArray[Any]
# Tensors by kernel (its place among the calls) and name.
Tensors = dict[int, dict[str, Array]]

_HALF, _INT8 = "float16", "int8"
_MOST_TOGETHER = 6  # kernels
_PAIR = ("QuantizeLinear", "DequantizeLinear")
# These move nothing in memory, so a kernel may have them inside without naming them.
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Bend:
    """An activation that is flat outside of a range.

    Attributes:
        tensor: name of the tensor that enters it.
        low, high: what is between them comes out as something of its own.
    """

    tensor: str
    low: float
    high: float

    def alive(self, values: Array) -> NDArray[np.bool_]:
        """Tell of every channel, the second axis, whether a value of it is in the range."""
        inside = (values > self.low) & (values < self.high)
        axes = tuple(axis for axis in range(inside.ndim) if axis != 1)
        return np.atleast_1d(inside.any(axis=axes if inside.ndim > 1 else None))


@dataclass(frozen=True)
class Part:
    """What a kernel computes, as nodes of the model.

    Attributes:
        kernel: the kernel's place among the calls.
        first: the place of the first kernel that computes these nodes with it: the one before it,
            for instance, may hand over gates in memory of no name. Mostly there is none.
        nodes: the nodes, in order.
        reads: names of the tensors that enter.
        writes: names of the tensors that leave.
        half: whether the kernel reads or writes half precision.
        bends: the activations among the nodes.
    """

    kernel: int
    first: int
    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    half: bool
    bends: tuple[Bend, ...]

    @property
    def kernels(self) -> range:
        """The places of all kernels that compute these nodes."""
        return range(self.first, self.kernel + 1)


class Graph:
    """A model's nodes by what they make.

    Attributes:
        model: the model.
        stored: its constants by name.
        tensors: names of all others.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self.tensors = {*self._makers, *(value.name for value in model.graph.input)}
        self._order = {id(node): at for at, node in enumerate(model.graph.node)}

    @property
    def only_constants(self) -> bool:
        """Whether no output depends on an input, so that all kernels only copy."""
        return all(output.name in self.stored for output in self.model.graph.output)

    def parts(self, kernels: Sequence[KernelRecord]) -> Iterator[Part]:
        """Yield what kernels compute whose nodes lie between tensors of the model.

        A kernel that takes gates or sums in memory of no name is one with those before it.
        """
        bent = set[str]()
        for at, kernel in enumerate(kernels):
            part = self.part(at, [kernel], self.tensors)
            before = range(at - 1, max(-1, at - _MOST_TOGETHER), -1)
            for first in () if part is not None or _rounds([kernel]) else before:
                together = kernels[first : at + 1]
                if _rounds(together):
                    break
                # What reads nothing of a name gets it from the kernel before.
                if any(one is not None and one.reads for one in together[0].arguments):
                    part = part or self.part(first, together, self.tensors)
            if part is not None:
                others = tuple(bend for bend in part.bends if bend.tensor not in bent)
                bent |= {bend.tensor for bend in others}
                yield replace(part, bends=others)

    def part(
        self, first: int, kernels: Sequence[KernelRecord], known: Collection[str]
    ) -> Part | None:
        """Return the nodes between what kernels read and what the last of them writes.

        `first` is the place of the first kernel, and `known` are the tensors whose values are at
        hand. None where the model does not have them all: a sum before it is rounded, for
        instance, belongs to two kernels.
        """
        *before, last = kernels
        given = [one for kernel in kernels for one in kernel.arguments if one is not None]
        own = [one for one in last.arguments if one is not None]
        handed = {one.writes for kernel in before for one in kernel.arguments if one is not None}
        reads = {one.reads for one in given if one.reads in known} - handed
        writes = {one.writes for one in own if one.writes in known} - reads
        covered = {name for kernel in kernels for name in kernel.nodes}
        nodes: dict[int, onnx.NodeProto] = {}
        waiting, renamed = [name for name in writes if name], dict[str, str]()
        while waiting:
            name = waiting.pop()
            if name in reads or name in self.stored or name in renamed:
                continue
            maker = self._makers.get(name)
            if maker is None or any(attribute.HasField("g") for attribute in maker.attribute):
                return None
            same = self._same(name, maker, reads)
            if same is not None:
                renamed[name] = same
            elif id(maker) not in nodes:
                nodes[id(maker)] = maker
                waiting += filter(None, maker.input)
        if not nodes or not writes:
            return None
        inside = sorted(nodes.values(), key=lambda node: self._order[id(node)])
        others = (node for node in inside if node.op_type not in (*_PAIR, *_VIEWS))
        if any((node.name or f"→ {node.output[0]}") not in covered for node in others):
            return None  # another kernel computes it, and hands it over in memory of no name
        copies = [_renamed(node, renamed) for node in inside]
        read = {name for node in copies for name in node.input} & reads
        half = any(argument.dtype == _HALF for argument in given)
        bends = tuple(self._bends(copies))
        reads_of, writes_of = (tuple(sorted(filter(None, each))) for each in (read, writes))
        at = first + len(before)
        return Part(at, first, tuple(copies), reads_of, writes_of, half, bends)

    def _same(self, name: str, maker: onnx.NodeProto, reads: Iterable[str | None]) -> str | None:
        """Return a tensor that a kernel reads and that equals another one, as pairs make them."""
        if maker.op_type != "DequantizeLinear":
            return None
        for other in reads:
            twin = self._makers.get(other or "")
            if twin is not None and (twin.op_type, twin.input) == (maker.op_type, maker.input):
                return other
        return None

    def _bends(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[Bend]:
        for node in nodes:
            number = {one.name: one.f for one in node.attribute}
            source = node.input[0] if node.input else ""
            if node.op_type == "Relu":
                yield Bend(source, 0.0, inf)
            elif node.op_type == "HardSwish":
                yield Bend(source, -3.0, inf)
            elif node.op_type == "HardSigmoid" and number.get("alpha", 0.2) > 0:
                alpha, beta = number.get("alpha", 0.2), number.get("beta", 0.5)
                yield Bend(source, -beta / alpha, (1 - beta) / alpha)
            elif node.op_type == "Clip":
                yield Bend(source, self._bound(node, 1, -inf), self._bound(node, 2, inf))

    def _bound(self, node: onnx.NodeProto, place: int, default: float) -> float:
        name = node.input[place] if len(node.input) > place else ""
        stored = self.stored.get(name)
        return default if stored is None else float(numpy_helper.to_array(stored).reshape(()))


def _rounds(kernels: Sequence[KernelRecord]) -> bool:
    """Say whether kernels round to integers, so that a step of one may be several of the next."""
    given = (one for kernel in kernels for one in kernel.arguments if one is not None)
    return any(one.dtype == _INT8 for one in given)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    return copy


class Apart:
    """Parts of a model, to be fed one by one, in one session of onnxruntime.

    Attributes:
        parts: the parts, by the places of their kernels.
    """

    def __init__(
        self, graph: Graph, parts: Sequence[Part], values: Mapping[str, Array], wanted: set[str]
    ) -> None:
        """Open the session.

        Args:
            graph: the model.
            parts: its parts.
            values: a value of every tensor that a part reads, for its type and shape.
            wanted: names of the tensors that `run` is to give beside those that parts write.

        Raises:
            ModelError: onnxruntime cannot load it.
        """
        self.parts = {part.kernel: part for part in parts}
        model = onnx.ModelProto()
        model.ir_version = graph.model.ir_version
        model.opset_import.extend(graph.model.opset_import)
        model.functions.extend(graph.model.functions)
        model.graph.name = "apart"
        stored: dict[str, onnx.TensorProto] = {}
        self._outputs: list[tuple[int, str]] = []
        for part in parts:
            names, kept = _names_in(part, graph)
            stored |= kept
            for node in part.nodes:
                copy = _renamed(node, names)
                copy.name = ""
                copy.output[:] = [names.get(name, name) for name in node.output]
                model.graph.node.append(copy)
            for name in part.reads:
                dtype = helper.np_dtype_to_tensor_dtype(values[name].dtype)
                entry = helper.make_tensor_value_info(names[name], dtype, values[name].shape)
                model.graph.input.append(entry)
            made = {name for node in part.nodes for name in node.output}
            asked = {*part.writes, *(bend.tensor for bend in part.bends), *wanted} & made
            self._outputs += [(part.kernel, name) for name in sorted(asked)]
        names_of_outputs = (f"{kernel}/{name}" for kernel, name in self._outputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names_of_outputs)
        model.graph.initializer.extend(stored.values())
        self._opened = session(model)

    def run(self, given: Tensors) -> Tensors:
        """Return what parts make of tensors: those that enter, and those that were wanted."""
        feed = {
            f"{kernel}/{name}": given[kernel][name]
            for kernel, part in self.parts.items()
            for name in part.reads
        }
        found: Tensors = {kernel: dict(given[kernel]) for kernel in self.parts}
        for (kernel, name), array in zip(self._outputs, self._opened.run(None, feed), strict=True):
            found[kernel][name] = np.asarray(array)
        return found


def _names_in(part: Part, graph: Graph) -> tuple[dict[str, str], dict[str, onnx.TensorProto]]:
    """Return the names of a part's tensors in the model of all parts, and its constants."""
    made = (name for node in part.nodes for name in node.output if name)
    names = {name: f"{part.kernel}/{name}" for name in (*part.reads, *made)}
    kept: dict[str, onnx.TensorProto] = {}
    for name in {name for node in part.nodes for name in node.input if name} - names.keys():
        tensor = graph.stored[name]
        tensor = (_halved(tensor, part.kernel) if part.half else None) or tensor
        names[name], kept[tensor.name] = tensor.name, tensor
    return names, kept


def _halved(tensor: onnx.TensorProto, kernel: int) -> onnx.TensorProto | None:
    """Return weights as a kernel in half precision has them; None for what is no weight."""
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
    return numpy_helper.from_array(values, f"{kernel}/{tensor.name}")


# By which the size of drawn tensors differs from that of the network's, and their sign.
_FACTORS = (1.0, -1.0, 0.25, -0.25, 4.0, -4.0, 0.03)
_MOST_DRAWN = 2  # runs of the library on drawn tensors


def drawn(part: Part, values: Mapping[str, Array], factor: float) -> dict[str, Array]:
    """Return seeded tensors for a part, `factor` times as large as the network's own.

    Half of the variance is one number per channel, so that means differ, too.
    """
    made = {}
    for place, name in enumerate(part.reads):
        like = values[name]
        rng = np.random.default_rng((part.kernel, place))
        flat = tuple(n if axis < 2 else 1 for axis, n in enumerate(like.shape))
        noise = rng.standard_normal(like.shape) + rng.standard_normal(flat)
        finite = np.where(np.isfinite(like), like, 0).astype(np.float64)
        size = float(np.sqrt(np.mean(finite**2))) if like.size else 0.0
        made[name] = np.asarray(factor * (size or 1.0) * noise / np.sqrt(2), like.dtype)
    return made


def may_be_drawn(part: Part, values: Mapping[str, Array]) -> bool:
    """Say whether a part has activations, and takes numbers that are no positions or flags."""
    floats = (np.issubdtype(values[name].dtype, np.floating) for name in part.reads)
    return bool(part.bends) and bool(part.reads) and all(floats)


class Alive:
    """Which channels of which activations have answered so far."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], NDArray[np.bool_]] = {}

    def gained(self, part: Part, tensors: Mapping[str, Array]) -> int:
        """Return how many more channels of a part would answer to some tensors."""
        return sum(
            int((now & ~self._seen.get(key, np.zeros_like(now))).sum())
            for key, now in _answers(part, tensors)
        )

    def note(self, part: Part, tensors: Mapping[str, Array]) -> None:
        """Take note of the channels of a part that answer to some tensors."""
        for key, now in _answers(part, tensors):
            self._seen[key] = now | self._seen.get(key, np.zeros_like(now))

    def whole(self, part: Part) -> bool:
        """Say whether every channel of a part has answered."""
        return all(seen.all() for (kernel, _), seen in self._seen.items() if kernel == part.kernel)

    @property
    def channels(self) -> int:
        return sum(seen.size for seen in self._seen.values())

    @property
    def alive(self) -> int:
        return sum(int(seen.sum()) for seen in self._seen.values())


def _answers(
    part: Part, tensors: Mapping[str, Array]
) -> Iterator[tuple[tuple[int, int], NDArray[np.bool_]]]:
    for place, bend in enumerate(part.bends):
        if bend.tensor in tensors:
            yield (part.kernel, place), bend.alive(tensors[bend.tensor])


def rounds_of_drawn(
    apart: Apart, values: Mapping[str, Array], alive: Alive, rounded: Any
) -> Iterator[Tensors]:
    """Yield tensors on which the channels of the parts answer that have not, part by part.

    Args:
        apart: parts with such channels.
        values: the network's own tensors.
        alive: what has answered; it takes note of what is yielded.
        rounded: called with a kernel's place and tensors to make them such as the kernel takes.
    """
    tried = [
        apart.run(
            {at: rounded(at, drawn(part, values, factor)) for at, part in apart.parts.items()}
        )
        for factor in _FACTORS
    ]
    for _ in range(_MOST_DRAWN):
        chosen: Tensors = {}
        for at, part in apart.parts.items():
            best = max(tried, key=lambda each: alive.gained(part, each[at]))
            if alive.gained(part, best[at]):
                chosen[at] = best[at]
                alive.note(part, best[at])
        if not chosen:
            return
        yield chosen
