"""Models that fp32 computes badly: what float64 gives, and where the digits are lost.

Where numbers that are nearly equal are subtracted, most of their digits cancel, and what is left
is the rounding of what came before. Two correct programs then differ by as much as wrong ones, and
so do onnxruntime's own levels. Such an output is held to float64, and to what the rounding of fp32
does to this network by itself (`doubles.py`), whoever computes it.
"""

from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import Mbv3cError
from mbv3c.feeds import Array, Feed
from mbv3c.parity.doubles import InDoubles, Lanes, Step
from mbv3c.parity.sums import UNIT
from mbv3c.passes import COMPILING, run_pipeline

_RUNS = 3  # with rounding, beside the exact one


class Doubt(Protocol):
    """What is known of an output that fp32 computes badly."""

    @property
    def exact(self) -> Array | None:
        """The output in float64; None if the model cannot run in it, or not to finite numbers."""

    @property
    def noise(self) -> NDArray[np.float64]:
        """What correct fp32 arithmetic may be off, in absolute numbers.

        A number, or one for each channel, as the range that errors are fractions of.
        """

    @property
    def layer(self) -> str:
        """The node that loses most digits, with how many; empty if that is not known."""

    @property
    def apart(self) -> float:
        """How far onnxruntime is from float64, of range, on the first input that is asked."""

    def sound(self, most: float) -> bool:
        """Say whether rounding moves the output by less than such a fraction of its range.

        One input is asked for all, the first.
        """

    @property
    def as_given(self) -> "Doubt":
        """The same of the model as given, whose noise may be more than that of the rewritten."""

    @property
    def unnamed(self) -> "Doubt":
        """The same without `layer`, which takes most of the time."""


@dataclass(frozen=True)
class KnownDoubt:
    """What was found before, see `Doubt`."""

    exact: Array | None
    noise: NDArray[np.float64]
    layer: str
    apart: float

    def sound(self, most: float) -> bool:
        return not self.noise.any()

    @property
    def as_given(self) -> Doubt:
        return self

    @property
    def unnamed(self) -> Doubt:
        return self


class Conditioning:
    """A model in float64, as given and as the compiler rewrites it, opened when it is asked for.

    Args:
        model: the model.

    Attributes:
        noises: what rounding does to an output on the first input that was asked, of range.
        apart: how far onnxruntime is from float64 there, of range.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.noises: dict[str, float] = {}
        self.apart: dict[str, float] = {}

    @cached_property
    def given(self) -> InDoubles:
        """The model as given.

        Raises:
            ModelError: it does not run in float64.
        """
        return InDoubles(self._model)

    @cached_property
    def rewritten(self) -> InDoubles | None:
        """The model as the compiler lowers it, which may add up less that cancels."""
        with suppress(Mbv3cError):
            return InDoubles(run_pipeline(self._model, COMPILING)[0])
        return None


@dataclass(frozen=True)
class _Ran:
    """Outputs in float64, how far rounding moved them, and where.

    Attributes:
        exact: the outputs, by name.
        moved: the largest difference that rounding made, in the outputs' shapes.
        layer: the node that loses most digits, in words.
    """

    exact: Mapping[str, Array]
    moved: Mapping[str, Array]
    layer: str


class Conditioned:
    """An input of a model in float64, which runs when it is asked for.

    Args:
        conditioning: the model.
        x: the input.
    """

    def __init__(self, conditioning: Conditioning, x: Feed) -> None:
        self.conditioning, self._x = conditioning, x

    @cached_property
    def exact(self) -> Mapping[str, Array]:
        """The outputs of the model as given; none if it does not run in float64."""
        if "given" in self.__dict__:
            return self.given.exact if self.given is not None else {}
        with suppress(Mbv3cError), np.errstate(all="ignore"):
            opened = self.conditioning.given
            return {
                name: lanes[0]
                for step in opened.run(self._x)
                for name, lanes in step.outputs.items()
                if name in opened.outputs
            }
        return {}

    @cached_property
    def given(self) -> _Ran | None:
        """The model as given; None if it does not run in float64."""
        with suppress(Mbv3cError):
            return _ran(self.conditioning.given, self._x)
        return None

    @cached_property
    def rewritten(self) -> _Ran | None:
        """The rewritten model; None if it does not run in float64."""
        with suppress(Mbv3cError):
            opened = self.conditioning.rewritten
            return None if opened is None else _ran(opened, self._x)
        return None


@dataclass(frozen=True)
class OutputDoubt:
    """An output of an input in float64, see `Doubt`.

    Attributes:
        conditioned: the input.
        name: name of the output.
        output: the output as onnxruntime computes it.
        scale: the range that errors are fractions of.
        rewritten: whether the rewritten model counts.
        named: whether the layer is looked for.
    """

    conditioned: Conditioned
    name: str
    output: Array
    scale: NDArray[np.float64]
    rewritten: bool = True
    named: bool = True

    @property
    def exact(self) -> Array | None:
        exact = self.conditioned.exact.get(self.name)
        return exact if exact is not None and np.isfinite(exact).all() else None

    @property
    def noise(self) -> NDArray[np.float64]:
        """What rounding does to the model as given, or as rewritten if that is less."""
        found = [
            _as_scale(ran.moved[self.name], self.scale)
            for ran in self._counting()
            if ran is not None and self.name in ran.moved
        ]
        return np.minimum.reduce(found) if found else np.zeros(self.scale.shape)

    @property
    def layer(self) -> str:
        ran = self.conditioned.given if self.named else None
        return ran.layer if ran is not None else ""

    @property
    def apart(self) -> float:
        known = self.conditioned.conditioning.apart
        if self.name not in known:
            exact, apart = self.exact, 0.0
            if exact is not None and exact.shape == self.output.shape and exact.size:
                errors = np.abs(self.output.astype(np.float64) - exact) / self.scale
                apart = float(np.nan_to_num(errors, nan=0.0, posinf=0.0).max())
            known[self.name] = apart
        return known[self.name]

    def sound(self, most: float) -> bool:
        known = self.conditioned.conditioning.noises
        if self.name not in known:
            ran, noise = self.conditioned.given, np.zeros(())
            if ran is not None and self.name in ran.moved:
                noise = _as_scale(ran.moved[self.name], self.scale) / self.scale
            known[self.name] = float(noise.max())
        return known[self.name] <= most

    @property
    def as_given(self) -> Doubt:
        return replace(self, rewritten=False)

    @property
    def unnamed(self) -> Doubt:
        return replace(self, named=False)

    def _counting(self) -> Iterator[_Ran | None]:
        yield self.conditioned.given
        if self.rewritten:
            yield self.conditioned.rewritten


def _as_scale(moved: Array, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest difference of every channel that has a range of its own."""
    if scale.size == 1:
        return np.full(scale.shape, moved.max(initial=0.0), np.float64)
    axes = tuple(axis for axis, count in enumerate(scale.shape) if count == 1)
    return np.asarray(moved.max(axis=axes, keepdims=True), np.float64)


@np.errstate(all="ignore")
def _ran(opened: InDoubles, x: Feed) -> _Ran:
    exact: dict[str, Array] = {}
    moved: dict[str, Array] = {}
    most, layer = 1.0, ""
    for step in opened.run(x, _RUNS):
        lost = _lost(step, ends=opened.outputs)
        if lost > most:
            most, layer = lost, _named(step.node, lost)
        for name, lanes in step.outputs.items():
            if name in opened.outputs:
                exact[name], moved[name] = lanes[0], _moved(lanes)
    return _Ran(exact, moved, layer)


def _named(node: onnx.NodeProto, lost: float) -> str:
    where = f"{node.name} ({node.op_type})" if node.name else f"{node.op_type} → {node.output[0]}"
    return f"{where} loses {np.log10(lost):.1f} of fp32's 7 digits"


def _moved(lanes: Lanes) -> Array:
    exact = lanes[0]
    zero = np.zeros(exact.shape)
    differences = (np.abs(y.astype(np.float64) - exact) for y in lanes[1:])
    return np.asarray(np.maximum.reduce([zero, *differences]))


def _lost(step: Step, ends: Container[str] = ()) -> float:
    """Return by what factor a node makes the relative error of its inputs larger.

    Errors of the model's own outputs, `ends`, are fractions of their range, so there the node that
    only adds a large number loses digits, too.
    """
    before = max((_relative(lanes) for lanes in step.inputs), default=0.0)
    outputs = step.outputs.items()
    after = max((_relative(lanes, of_range=name in ends) for name, lanes in outputs), default=0.0)
    return after / max(before, UNIT)


def _relative(lanes: Lanes, *, of_range: bool = False) -> float:
    """Return the error of a tensor over the tensor, or what of it is no offset, as vectors."""
    exact = lanes[0]
    if len(lanes) == 1 or not np.issubdtype(exact.dtype, np.floating):
        return 0.0
    size = float(np.linalg.norm(exact))
    if of_range and exact.size > 1:
        size = float(np.linalg.norm(exact - exact.mean())) or size
    return float(np.linalg.norm(_moved(lanes))) / size if size > 0 else 0.0
