"""Write LSTM, GRU and RNN step by step, for sequences of a fixed length.

    LSTM(x, W, R, B)   ⇒   Gemm(x, Wᵀ, B) → per step: MatMul(h, Rᵀ) → Add → gates → c, h

All steps share one product with the input. Both directions of a bidirectional layer go on
together, as a batch of two: the backward one reads the sequence from its end, and writes it from
there.
Every tensor within has the shape [directions, batch, …], as ONNX lays states out. Source: ONNX
operators LSTM-14, GRU-14, RNN-14.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.spelling import Spelling, StaysError, spell_nodes

NAME = "unroll_recurrent"
REMOVES = Removal(("LSTM", "GRU", "RNN"), "for sequences of a fixed length, with constant weights")

_MOST_STEPS = 512  # of all directions
_BEFORE_FIRST = -(2**31)  # the end of a slice that goes back to the beginning
_OLDEST = 13  # Split and Squeeze take their sizes and axes as inputs from this opset on


def unroll_recurrent(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Unroll every LSTM, GRU and RNN of a fixed length."""
    return spell_nodes(model, NAME, {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn})


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a recurrent layer."""

    steps: int
    directions: int
    batch: int
    inputs: int
    hidden: int


# What an activation is called in ONNX, and the names and defaults of its parameters there.
_ACTIVATIONS: dict[str, dict[str, float]] = {
    "Sigmoid": {},
    "Tanh": {},
    "Relu": {},
    "Softsign": {},
    "Softplus": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
}


class _Cell(ABC):
    """One step of a layer.

    Attributes:
        gates: how many vectors of weights a unit has.
        usual: its activations, unless the node says others.
        sizes: sizes of the layer.
    """

    gates: int
    usual: tuple[str, ...]

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._stored: dict[str, str] = {}
        self.sizes = self._read_sizes()
        self._activations = self._read_activations()
        clip = float(spelling.attribute("clip", 0.0))
        self._clip: tuple[str, ...] = ()
        if clip:
            low, high = (np.array(bound, np.float32) for bound in (-clip, clip))
            self._clip = (spelling.store(low, "low"), spelling.store(high, "high"))
        self._recurrent = spelling.value(spelling.input(2), "its weights").transpose(0, 2, 1)

    def _read_sizes(self) -> _Sizes:
        spelling = self._spelling
        spelling.since(_OLDEST)
        spelling.dtype(spelling.input(0))
        if spelling.attribute("layout", 0):
            raise StaysError("its batch comes first (layout 1), which onnxruntime does not run")
        steps, batch, inputs = spelling.shape(spelling.input(0))
        directions, rows, hidden = spelling.shape(spelling.input(2))
        if rows != self.gates * hidden:
            raise StaysError(f"its weights have {rows} rows for {hidden} units")
        if steps * directions > _MOST_STEPS:
            raise StaysError(
                f"it has {steps * directions} steps in all; up to {_MOST_STEPS} are unrolled"
            )
        if spelling.input(4):
            lengths = spelling.value(spelling.input(4), "the length of its sequences")
            if np.any(lengths != steps):
                raise StaysError("its sequences are of other lengths than its input")
        return _Sizes(steps, directions, batch, inputs, hidden)

    def _read_activations(self) -> list[tuple[str, dict[str, float]]]:
        spelling, directions = self._spelling, self.sizes.directions
        names = [name.decode() for name in spelling.attribute("activations", ())] or [
            *self.usual
        ] * directions
        values = {
            key: list(spelling.attribute(f"activation_{key}", ())) for key in ("alpha", "beta")
        }
        found = []
        for name in names:
            known = {each.lower(): each for each in _ACTIVATIONS}
            if name.lower() not in known:
                raise StaysError(f"its activation {name!r} has no other spelling")
            name = known[name.lower()]
            found.append(
                (
                    name,
                    {
                        key: values[key].pop(0) if values[key] else default
                        for key, default in _ACTIVATIONS[name].items()
                    },
                )
            )
        ways = len(self.usual)
        if len(found) != ways * directions or any(
            each != found[i % ways] for i, each in enumerate(found)
        ):
            raise StaysError("its directions have different activations")
        return found[:ways]

    def biases(self) -> NDArray[Any]:
        """Return those of the input and of h, [directions, 2, gates · hidden]."""
        sizes, spelling = self.sizes, self._spelling
        shape = (sizes.directions, 2, self.gates * sizes.hidden)
        if not spelling.input(3):
            return np.zeros(shape, np.float32)
        given: NDArray[Any] = spelling.value(spelling.input(3), "its bias").reshape(shape)
        return given

    def constant_bias(self) -> NDArray[Any]:
        """Return what is added to all steps at once, [directions, gates · hidden]."""
        return self._shared(*self.biases().transpose(1, 0, 2))

    def _shared(self, read: NDArray[Any], recurrent: NDArray[Any]) -> NDArray[Any]:
        sums: NDArray[Any] = read + recurrent
        return sums

    def start(self) -> list[str]:
        """Return the states before the first step; h comes first."""
        return [self._initial(5)]

    def _initial(self, position: int) -> str:
        given, sizes = self._spelling.input(position), self.sizes
        if given:
            return given
        zeros = np.zeros((sizes.directions, sizes.batch, sizes.hidden), np.float32)
        return self._spelling.store(zeros, "start")

    @abstractmethod
    def step(self, x: str, states: Sequence[str]) -> list[str]:
        """Append a step from what the input gives to it; return the next states."""

    def activate(self, x: str, which: int, *, clipped: bool = True) -> str:
        """Append one of the activations, and what bounds its input."""
        name, parameters = self._activations[which]
        if self._clip and clipped:
            x = self.add("Clip", x, *self._clip)
        return self.add(name, x, **parameters)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self._spelling.add(op_type, *inputs, **attributes)

    def parts(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Append what splits the last axis into so many times the number of units."""
        widths = np.array(sizes, np.int64) * self.sizes.hidden
        stored = self.stored(widths, "".join(("widths", *map(str, sizes))))
        return self._spelling.split("Split", x, stored, outs=[""] * len(sizes), axis=2)

    def product(self, h: str, first: int, last: int) -> str:
        """Append the product of h with the weights of some gates."""
        units = self.sizes.hidden
        part = self._recurrent[:, :, first * units : last * units]
        return self.add("MatMul", h, self.stored(part, f"recurrent{first}"))

    def stored(self, array: NDArray[Any], what: str) -> str:
        """Store a constant that all steps read."""
        if what not in self._stored:
            self._stored[what] = self._spelling.store(array, what)
        return self._stored[what]


class _Lstm(_Cell):
    gates = 4
    usual = ("Sigmoid", "Tanh", "Tanh")

    def start(self) -> list[str]:
        return [self._initial(5), self._initial(6)]

    def step(self, x: str, states: Sequence[str]) -> list[str]:
        h, c = states
        made = self.add("Add", x, self.product(h, 0, 4))
        enter, leave, keep, new = self.parts(made, (1, 1, 1, 1))
        enter = self.activate(self._peep(enter, c, 0), 0)
        if self._spelling.attribute("input_forget", 0):
            one = self.stored(np.ones((1, 1, 1), np.float32), "one")
            keep = self.add("Sub", one, enter)
        else:
            keep = self.activate(self._peep(keep, c, 2), 0)
        entering = self.add("Mul", enter, self.activate(new, 1))
        c = self.add("Add", self.add("Mul", keep, c), entering)
        leave = self.activate(self._peep(leave, c, 1), 0)
        return [self.add("Mul", leave, self.activate(c, 2, clipped=False)), c]

    def _peep(self, x: str, c: str, which: int) -> str:
        """Append what lets a gate see c, if the layer has peepholes."""
        name = self._spelling.input(7)
        if not name:
            return x
        sizes = self.sizes
        holes = self._spelling.value(name, "its peepholes")
        weights = holes.reshape(sizes.directions, 3, 1, sizes.hidden)[:, which]
        return self.add("Add", x, self.add("Mul", c, self.stored(weights, f"peephole{which}")))


class _Gru(_Cell):
    gates = 3
    usual = ("Sigmoid", "Tanh")

    def _shared(self, read: NDArray[Any], recurrent: NDArray[Any]) -> NDArray[Any]:
        last = 2 * self.sizes.hidden if self._late() else None
        sums = read.copy()
        sums[:, :last] += recurrent[:, :last]
        return sums

    def step(self, x: str, states: Sequence[str]) -> list[str]:
        (h,) = states
        gates, new = self.parts(x, (2, 1))
        if self._late():
            product, reset = self.parts(self.product(h, 0, 3), (2, 1))
            bias = self.biases()[:, 1:, 2 * self.sizes.hidden :]
            reset = self.add("Add", reset, self.stored(bias, "bias"))
        else:
            product, reset = self.product(h, 0, 2), h
        gates = self.activate(self.add("Add", gates, product), 0)
        keep, through = self.parts(gates, (1, 1))
        reset = self.add("Mul", through, reset)
        if not self._late():
            reset = self.product(reset, 2, 3)
        new = self.activate(self.add("Add", new, reset), 1)
        one = self.stored(np.ones((1, 1, 1), np.float32), "one")
        entering = self.add("Mul", self.add("Sub", one, keep), new)
        return [self.add("Add", entering, self.add("Mul", keep, h))]

    def _late(self) -> bool:
        """Say whether the reset gate acts behind the product with h."""
        return bool(self._spelling.attribute("linear_before_reset", 0))


class _Rnn(_Cell):
    gates = 1
    usual = ("Tanh",)

    def step(self, x: str, states: Sequence[str]) -> list[str]:
        return [self.activate(self.add("Add", x, self.product(states[0], 0, 1)), 0)]


def _lstm(spelling: Spelling) -> None:
    _write(spelling, _Lstm(spelling))


def _gru(spelling: Spelling) -> None:
    _write(spelling, _Gru(spelling))


def _rnn(spelling: Spelling) -> None:
    _write(spelling, _Rnn(spelling))


def _write(spelling: Spelling, cell: _Cell) -> None:
    """Write all steps, and the outputs that the node has."""
    sizes, states, collected = cell.sizes, cell.start(), list[str]()
    for x in _inputs_of_steps(spelling, cell):
        states = cell.step(x, states)
        collected.append(states[0])
    if spelling.output(0):
        joined = spelling.add("Concat", *collected, axis=0)
        shape = (sizes.steps, sizes.directions, sizes.batch, sizes.hidden)
        ordered = _in_order(spelling, _reshape(spelling, joined, shape))
        spelling.add("Identity", ordered, out=spelling.output(0))
    for state, output in zip(states, spelling.outputs[1:], strict=False):
        if output:
            spelling.add("Identity", state, out=output)


def _inputs_of_steps(spelling: Spelling, cell: _Cell) -> list[str]:
    """Append the input's product with its weights; return what each step reads of it."""
    sizes, width = cell.sizes, cell.gates * cell.sizes.hidden
    weights = spelling.value(spelling.input(1), "its weights").reshape(-1, sizes.inputs).T
    bias = cell.constant_bias().ravel()
    flat = _reshape(spelling, spelling.input(0), (sizes.steps * sizes.batch, sizes.inputs))
    operands = (flat, spelling.store(weights, "weights"), spelling.store(bias, "bias"))
    made = spelling.add("Gemm", *operands)
    made = _reshape(spelling, made, (sizes.steps, sizes.batch, sizes.directions, width))
    made = _in_order(spelling, spelling.add("Transpose", made, perm=[0, 2, 1, 3]))
    made = _reshape(spelling, made, (sizes.steps * sizes.directions, sizes.batch, width))
    lengths = spelling.store(np.full(sizes.steps, sizes.directions, np.int64), "lengths")
    return spelling.split("Split", made, lengths, outs=[""] * sizes.steps, axis=0)


def _in_order(spelling: Spelling, x: str) -> str:
    """Append what turns a backward direction of [steps, directions, …] round, in time."""
    direction = spelling.attribute("direction", "forward")
    if direction == "forward":
        return x
    last, before_first, axis, back = (
        spelling.store(np.array([value], np.int64), what)
        for value, what in ((-1, "last"), (_BEFORE_FIRST, "end"), (0, "axis"), (-1, "back"))
    )
    if direction == "reverse":
        return spelling.add("Slice", x, last, before_first, axis, back)
    ones = spelling.store(np.array([1, 1], np.int64), "ones")
    forward, backward = spelling.split("Split", x, ones, outs=["", ""], axis=1)
    turned = spelling.add("Slice", backward, last, before_first, axis, back)
    return spelling.add("Concat", forward, turned, axis=1)


def _reshape(spelling: Spelling, x: str, shape: tuple[int, ...]) -> str:
    return spelling.add("Reshape", x, spelling.store(np.array(shape, np.int64), "shape"))
