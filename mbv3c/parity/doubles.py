"""A model in float64, and beside it what fp32 arithmetic may make of it.

onnxruntime has few operators in float64, no convolution among them. So the model runs node by
node: sums by `sums.py`, what NumPy has in NumPy, the others in onnxruntime where it has them in
float64, else by ONNX's reference implementation; what all lack, such as Resize, runs in fp32 on
two parts of each number.

The rounding of fp32 is stochastic arithmetic (Parker, "Monte Carlo Arithmetic", UCLA, 1997;
Vignes, "A Stochastic Arithmetic for Reliable Scientific Computation", 1993): the model runs
several times, and what a node makes is moved at random by as much as correct fp32 arithmetic may
move it. No fp32 can do better than what these runs lie apart, however it orders its sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mbv3c.errors import ModelError
from mbv3c.feeds import Array, Feed, arrays_of
from mbv3c.graphs.load import model_inputs
from mbv3c.parity.elementwise import PLAIN, plain
from mbv3c.parity.running import run, session
from mbv3c.parity.sums import SUMS, UNIT, NotASumError, sum_of
from mbv3c.passes.inline_functions import inline_functions

# What only moves, chooses or clamps numbers rounds nothing.
_EXACT = frozenset(
    (
        *("Abs", "Cast", "Clip", "Concat", "Constant", "Expand", "Flatten", "Gather", "Identity"),
        *("GatherElements", "GatherND", "Max", "MaxPool", "Min", "Neg", "Pad", "Relu", "Reshape"),
        *("GlobalMaxPool", "ReduceMax", "ReduceMin", "ScatterElements", "ScatterND", "Slice"),
        *("Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Where", "SpaceToDepth"),
        *("ConstantOfShape", "DepthToSpace", "Dropout", "Range", "Sign"),
    )
)
_LINEAR = ("Resize", "Upsample")
# Of ONNX's reference implementation, loops of Python over every number.
_SLOW = (
    *("AveragePool", "Col2Im", "Conv", "ConvTranspose", "GridSample", "LRN", "LpPool"),
    *("MaxPool", "MaxRoiPool", "MaxUnpool", "RoiAlign", *_LINEAR),
)

_ALIKE = 1e-2  # of the largest number; the rounding of one node in fp32 is far below

Made = list[Array]
Lanes = list[Array]  # the exact tensor, then noisy ones; the exact one alone if all are equal
_Way = Callable[[Sequence[Array | None]], Made]


@dataclass(frozen=True)
class Step:
    """A node that ran.

    Attributes:
        node: the node.
        inputs: what it read, without constants and what is left out.
        outputs: what it made, by name.
    """

    node: onnx.NodeProto
    inputs: tuple[Lanes, ...]
    outputs: dict[str, Lanes]


class InDoubles:
    """A model that runs in float64.

    Raises:
        ModelError: it has nodes with graphs of their own.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        model, _ = inline_functions(model)
        self._model = model
        self._constants = {
            tensor.name: [_double(numpy_helper.to_array(tensor))]
            for tensor in model.graph.initializer
        }
        self._ways: dict[int, _Way] = {}
        self.outputs = frozenset(value.name for value in model.graph.output)
        for node in model.graph.node:
            if any(each.HasField("g") or each.graphs for each in node.attribute):
                raise ModelError(f"{node.op_type} has a graph of its own, which float64 lacks")
        kept = len(model.graph.node)
        self._last = {
            name: at for at, node in enumerate(model.graph.node) for name in node.input
        } | {value.name: kept for value in model.graph.output}

    def run(self, x: Feed, noisy: int = 0) -> Iterator[Step]:
        """Run an input of the model, and so many times more with fp32's rounding.

        Raises:
            ModelError: a node cannot run.
        """
        rng = np.random.default_rng(20190506)
        given = (value.name for value in model_inputs(self._model))
        values = dict(self._constants)
        values |= {name: [_double(array)] for name, array in zip(given, arrays_of(x), strict=True)}
        for at, node in enumerate(self._model.graph.node):
            if any(name and name not in values for name in node.input):
                raise ModelError(f"{node.op_type} reads what float64 lacks")
            read = [values[name] if name else None for name in node.input]
            made = self._lanes(at, node, read, noisy, rng)
            outputs = {name: lanes for name, lanes in zip(node.output, made, strict=False) if name}
            values |= outputs
            known = (name for name in node.input if name and name not in self._constants)
            yield Step(node, tuple(values[name] for name in known), outputs)
            for name in {*node.input, *node.output}:
                if self._last.get(name, at) <= at and name not in self._constants:
                    values.pop(name, None)

    def _lanes(
        self,
        at: int,
        node: onnx.NodeProto,
        read: Sequence[Lanes | None],
        noisy: int,
        rng: np.random.Generator,
    ) -> list[Lanes]:
        """Run a node on every lane, and add noise to what it makes of the noisy ones."""
        count = max((len(lanes) for lanes in read if lanes is not None), default=1)
        ran = [
            self._made(at, node, [_lane(lanes, lane) for lanes in read]) for lane in range(count)
        ]
        made: list[Lanes] = [list(lanes) for lanes in zip(*ran, strict=True)]
        if not noisy or (node.op_type in _EXACT and not node.domain):
            return made
        deviation = self._deviation(node, [_lane(lanes, 0) for lanes in read])
        for lanes in made:
            exact = lanes[0]
            if not np.issubdtype(exact.dtype, np.floating):
                continue
            width = UNIT / np.sqrt(3) * np.abs(exact) if deviation is None else deviation
            lanes += [exact] * (noisy + 1 - len(lanes))
            lanes[1:] = [y + width * rng.standard_normal(y.shape) for y in lanes[1:]]
        return made

    def _deviation(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Array | None:
        if node.op_type in SUMS and not node.domain:
            try:
                return sum_of(node, inputs, rounded=True)[1]
            except NotASumError:
                return None
        return None

    def _made(self, at: int, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Made:
        if at not in self._ways:
            self._ways[at], made = self._found(node, inputs)
            return made
        return [_double(y) for y in self._ways[at](inputs)]

    def _found(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> tuple[_Way, Made]:
        """Find what computes a node most exactly, and compute it."""
        for make in self._ways_of(node, inputs):
            try:
                way = make()
                return way, [_double(y) for y in way(inputs)]
            except Exception:  # noqa: S112 the next one may know this node
                continue
        raise ModelError(f"nothing computes {node.op_type} in float64 or fp32")

    def _ways_of(
        self, node: onnx.NodeProto, inputs: Sequence[Array | None]
    ) -> Iterator[Callable[[], _Way]]:
        """Yield what makes something that may compute a node, the most exact first."""
        if node.op_type in SUMS and not node.domain:
            yield lambda: lambda given: [sum_of(node, given, rounded=False)[0]]
        if node.op_type in PLAIN and not node.domain:
            yield lambda: lambda given: [plain(node, given)]

        def in_runtime() -> _Way:
            opened = session(self._alone(node, inputs, np.float64))
            return lambda given: run(opened, _feed(node, given))

        def in_python() -> _Way:
            known = ReferenceEvaluator(self._alone(node, inputs, np.float64))

            def way(given: Sequence[Array | None]) -> Made:
                return [np.asarray(y) for y in known.run(None, _named(node, given))]

            _check_alike(way(inputs), in_fp32()(inputs))
            return way

        def in_fp32() -> _Way:
            return _in_singles(node, session(self._alone(node, inputs, np.float32)))

        yield in_runtime
        if node.op_type not in _SLOW:
            yield in_python
        yield in_fp32

    def _alone(
        self, node: onnx.NodeProto, inputs: Sequence[Array | None], floats: Any
    ) -> onnx.ModelProto:
        """Return a model of a node alone, whose floats are of a type."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for each in copy.attribute:
            if copy.op_type == "Cast" and each.name == "to" and each.i == TensorProto.FLOAT:
                each.i = helper.np_dtype_to_tensor_dtype(np.dtype(floats))
        types = {
            name: floats if x.dtype == np.float64 else x.dtype
            for name, x in _named(node, inputs).items()
        }
        graph = helper.make_graph(
            [copy],
            "node",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None
                )
                for name, dtype in types.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in copy.output if name],
        )
        model = helper.make_model(graph, opset_imports=list(self._model.opset_import))
        model.ir_version = self._model.ir_version
        model.functions.extend(self._model.functions)
        return model


def _check_alike(made: Made, in_fp32: Made) -> None:
    """Make sure that ONNX's reference implementation knows what a node's attributes ask for.

    That of LSTM-14 computes with tanh and without bounds, whatever the node says.

    Raises:
        ModelError: it does not.
    """
    for y, single in zip(made, in_fp32, strict=True):
        if not np.issubdtype(y.dtype, np.floating):
            continue
        apart = np.abs(y - single)
        most = _ALIKE * float(np.abs(single[np.isfinite(single)]).max(initial=0.0))
        if np.any(apart[np.isfinite(apart)] > most):
            raise ModelError("ONNX's reference implementation computes something else")


def _lane(lanes: Lanes | None, index: int) -> Array | None:
    return None if lanes is None else lanes[min(index, len(lanes) - 1)]


def _in_singles(node: onnx.NodeProto, opened: Any) -> _Way:
    """Return what runs a node in fp32; a linear one on two parts of its numbers, added up."""

    def way(given: Sequence[Array | None]) -> Made:
        singles = [x if x is None else _single(x) for x in given]
        made = run(opened, _feed(node, singles))
        x = given[0]
        if node.op_type not in _LINEAR or x is None:
            return made
        rest = _single(x - np.asarray(singles[0], np.float64))
        # What a Resize puts where it finds no pixels is there for 0, too.
        less, none = (run(opened, _feed(node, [part, *singles[1:]])) for part in (rest, 0 * rest))
        return [
            y.astype(np.float64) + (more.astype(np.float64) - zero)
            for y, more, zero in zip(made, less, none, strict=True)
        ]

    return way


def _named(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> dict[str, Array]:
    return {name: x for name, x in zip(node.input, inputs, strict=True) if name and x is not None}


def _feed(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Feed:
    return tuple(_named(node, inputs).values())


def _double(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype in (np.float32, np.float16) else x


def _single(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == np.float64 else x
