"""Write TopK, for which TVM has no kernel, as comparisons and reductions.

    TopK(x, 1)       ⇒   ReduceMax(x), ArgMax(x)
    TopK(x, few)     ⇒   ReduceMax of what is left, and its first place, again and again
    TopK(x, many)    ⇒   rank = how many elements come before each one; then what has which rank

An element comes before another if it is larger, or equal and further to the front: the order in
which onnxruntime takes them. What is left are the elements that come after the one that was taken
last, so that no value has to stand for "taken". Ranks compare all elements with all others, in
few kernels whatever the number is, which is for GPUs (`spell_ranks`): CPUs have a kernel that
compares most elements once. Source: ONNX operator TopK-11.
"""

from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from mbv3c.passes.report import PassReport, Removal
from mbv3c.passes.spelling import KeptError, Spelling, StaysError, spell_nodes

NAME = "spell_topk"
REMOVES = Removal(("TopK",), "of a constant number, up to 16")

_FEW = 16  # to take one by one, with two or three kernels each
_MOST_COMPARISONS = 2**24
_TYPES = (TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)
_OLDEST = 13  # ReduceSum and Unsqueeze take their axes as inputs from this opset on


def spell_topk(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every TopK of a few; what takes more is left as it is."""
    return spell_nodes(model, NAME, {"TopK": lambda spelling: _TopK(spelling).write_few()})


def spell_ranks(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
    """Rewrite every TopK of any constant number, by ranks where it takes many."""
    return spell_nodes(model, NAME, {"TopK": lambda spelling: _TopK(spelling).write()})


class _TopK:
    """One TopK.

    Places are counted in int32; onnxruntime and TVM reduce them in that type, too.
    """

    def __init__(self, spelling: Spelling) -> None:
        spelling.since(_OLDEST)
        self._spelling, self._x = spelling, spelling.input(0)
        self._dtype = spelling.dtype(self._x, among=_TYPES)
        self._shape = spelling.shape(self._x)
        self._axis = spelling.attribute("axis", -1) % len(self._shape)
        self._size = self._shape[self._axis]
        self._count = int(spelling.value(spelling.input(1), "its number").item())
        self._largest = bool(spelling.attribute("largest", 1))

    def write_few(self) -> None:
        """Append the nodes, unless there are many to take.

        Raises:
            KeptError: it takes many.
            StaysError: onnxruntime's order is not known.
        """
        self._check()
        if self._count > _FEW:
            raise KeptError
        self.write()

    def write(self) -> None:
        """Append the nodes.

        Raises:
            StaysError: onnxruntime's order is not known, or there is too much to compare.
        """
        self._check()
        if self._count == 1:
            self._best()
        elif self._count <= _FEW:
            self._one_by_one()
        elif prod(self._shape) * self._size <= _MOST_COMPARISONS:
            self._by_rank()
        else:
            raise StaysError(f"it takes {self._count} of {self._size}; of so many, up to {_FEW}")

    def _check(self) -> None:
        if not 0 < self._count <= self._size:
            raise StaysError(f"it takes {self._count} of {self._size}")
        if self._count > 1 and not self._spelling.attribute("sorted", 1):
            raise StaysError("it does not sort (sorted 0), and its order is onnxruntime's own")

    def _best(self) -> None:
        spelling, name = self._spelling, "Max" if self._largest else "Min"
        values, places = spelling.outputs
        spelling.reduce(f"Reduce{name}", self._x, [self._axis], keepdims=1, out=values)
        spelling.add(f"Arg{name}", self._x, axis=self._axis, keepdims=1, out=places)

    def _one_by_one(self) -> None:
        add, axis, x = self._spelling.add, self._axis, self._x
        numbers = np.arange(self._size, dtype=np.int32)
        here = self._along(numbers, axis, len(self._shape))
        behind = self._spelling.store(np.array(self._size, np.int32), "behind")
        # What no longer counts gets the worst value that there is: one of x itself, so that it is
        # right for any type and among infinite ones.
        least, most = ("ReduceMin", "ReduceMax") if self._largest else ("ReduceMax", "ReduceMin")
        worst = self._spelling.reduce(least, x, [axis], keepdims=1)
        values, places, left = list[str](), list[str](), ""
        for _ in range(self._count):
            rest = add("Where", left, x, worst) if left else x
            values.append(self._spelling.reduce(most, rest, [axis], keepdims=1))
            found = add("Equal", x, values[-1])
            found = add("And", left, found) if left else found
            place = add("Where", found, here, behind)
            places.append(self._spelling.reduce("ReduceMin", place, [axis], keepdims=1))
            after = add("Less" if self._largest else "Greater", x, values[-1])
            tied = add("And", add("Equal", x, values[-1]), add("Greater", here, places[-1]))
            left = add("Or", after, tied)
        add("Concat", *values, axis=axis, out=self._spelling.outputs[0])
        joined = add("Concat", *places, axis=axis)
        add("Cast", joined, to=TensorProto.INT64, out=self._spelling.outputs[1])

    def _by_rank(self) -> None:
        add, axis = self._spelling.add, self._axis
        # One axis more: along `axis` lies what is ranked, and behind it what may come before.
        ranked, other = (self._unsqueezed(self._x, place) for place in (axis + 1, axis))
        # Places that depend on x, or else TVM would store the comparison of all with all.
        unequal = add("Cast", add("Not", add("Equal", self._x, self._x)), to=TensorProto.INT32)
        numbers = np.arange(self._size, dtype=np.int32)
        here = add("Add", unequal, self._along(numbers, axis, len(self._shape)))
        ranked_place, other_place = (self._unsqueezed(here, place) for place in (axis + 1, axis))
        better = add("Greater" if self._largest else "Less", other, ranked)
        earlier = add("Less", other_place, ranked_place)
        before = add("Or", better, add("And", add("Equal", other, ranked), earlier))
        ones = add("Cast", before, to=TensorProto.INT32)
        ranks = self._spelling.reduce("ReduceSum", ones, [axis + 1], keepdims=1)
        # Now the axis behind is the place in the result.
        rank = len(self._shape) + 1
        wanted = self._along(numbers[: self._count], axis + 1, rank)
        chosen = add("Equal", ranks, wanted)
        places = self._along(numbers.astype(np.int64), axis, rank)
        for source, output in zip((ranked, places), self._spelling.outputs, strict=True):
            kind = self._dtype if source == ranked else np.dtype(np.int64)
            zero = self._spelling.store(np.zeros(1, kind), "zero")
            picked = add("Where", chosen, source, zero)
            self._spelling.reduce("ReduceSum", picked, [axis], keepdims=0, out=output)

    def _unsqueezed(self, x: str, axis: int) -> str:
        return self._spelling.add("Unsqueeze", x, self._spelling.store(np.array([axis]), "axis"))

    def _along(self, values: NDArray[Any], axis: int, rank: int) -> str:
        """Store a vector that lies along one of so many axes."""
        shape = [-1 if each == axis else 1 for each in range(rank)]
        return self._spelling.store(values.reshape(shape), "numbers")
