"""onnxruntime as the reference: what a model computes, and how exactly that is defined."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.feeds import Array, Feed, arrays_of, as_feed
from mbv3c.graphs.load import model_inputs
from mbv3c.graphs.outputs import class_axes
from mbv3c.parity.conditioning import Conditioned, Conditioning, Doubt, OutputDoubt
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.labels import Answers, Decision, KnownAnswers, alternatives, decisions_of, sides
from mbv3c.parity.metrics import over_range
from mbv3c.parity.running import OPTIMIZED as OPTIMIZED
from mbv3c.parity.running import PLAIN as PLAIN
from mbv3c.parity.running import feed_for as feed_for
from mbv3c.parity.running import optimized_sessions
from mbv3c.parity.running import run as run
from mbv3c.parity.running import session as session
from mbv3c.parity.scales import scale_of
from mbv3c.parity.tolerance import TOLERANCES

# What is allowed of the range of floats behind rounded ones: as if they had 255 steps themselves.
_OF_STEPS = TOLERANCES["int8"].steps / 255


@dataclass(frozen=True)
class ReferenceOutput:
    """One output that onnxruntime computes for one input.

    Attributes:
        name: name of the output.
        output: values of the output, computed without graph optimisations.
        spread: largest absolute difference between `output` and what onnxruntime gives with its
            optimisations, or for an input whose last bits differ, as a fraction of the output's
            range: the effect of rounding alone on this model.
        class_axis: axis of the classes in `output`; None if it holds no class scores.
        step: one step of a quantized output, as a fraction of the output's range; else None.
        scale: what errors are fractions of, here called the output's range: one number, or one
            for each channel, in a shape that broadcasts; None for the range of `output` itself.
        rounding: the error that the types of the model's own arithmetic leave, as a fraction of
            the range.
        answers: for labels and other whole numbers, which other ones are as right; `spread` and
            `step` are those of what decides. None for ordinary floats.
        doubt: what float64 gives, and where digits are lost, found out when it is asked for. None
            for quantized models, and for what fp16 in the model decides.
    """

    name: str
    output: Array
    spread: float
    class_axis: int | None
    step: float | None = None
    scale: NDArray[np.float64] | None = None
    rounding: float = 0.0
    answers: Answers | None = None
    doubt: Doubt | None = field(default=None, repr=False, compare=False)

    @property
    def span(self) -> float:
        """The output's range as one number, the largest of several channels."""
        return float(np.ptp(self.output) if self.scale is None else self.scale.max())

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """The range of every element where there are several; None for one or of labels."""
        if self.scale is None or self.scale.size == 1 or self.answers is not None:
            return None
        return np.broadcast_to(self.scale, self.output.shape).astype(np.float32)

    @property
    def calibrated(self) -> float:
        """The range that a quantized output can show; 0 for others."""
        if self.step is None or self.scale is None:
            return 0.0
        return 255 * self.step * float(self.scale.min())


def run_reference(
    model: onnx.ModelProto, inputs: Sequence[Feed]
) -> Iterator[list[ReferenceOutput]]:
    """Run the model as it is, with onnxruntime's own optimisations, and with other last bits.

    Yields:
        The model's outputs in graph order, for one input after the other.
    """
    decisions = decisions_of(model)
    tails = {name: _tail(decision) for name, decision in decisions.items()}
    deciding = dict.fromkeys(name for each in decisions.values() for name in each.tensors)
    asked = with_outputs(model, list(deciding))
    plain = session(asked)
    names = [output.name for output in asked.graph.output]
    computed = [run(plain, x) for x in inputs]
    # A single number has no range but over inputs, so there should be more of these.
    small = any(output.size < _FEW_VALUES for output in computed[0])
    seeds = range(2) if small else ()
    more = [run(plain, x) for seed in seeds for x in inputs_of(model, seed)]
    scales = {
        name: scale_of(model, name, values)
        for name, *values in zip(names, *computed, *more, strict=True)
    }
    steps = {name: _step(model, name, scales[name]) for name in names}
    own = [output.name for output in model.graph.output]
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    halves, behind = computed_in_half(model), behind_integers(model)
    left = dict.fromkeys(halves, TOLERANCES["fp16"].of_range)
    left |= {name: _OF_STEPS for name in behind if steps.get(name) is None}
    conditioning = Conditioning(asked)
    spreads = [dict.fromkeys(names, 0.0) for _ in inputs]

    def widen(opened: ort.InferenceSession, variants: Sequence[Feed]) -> None:
        for spread, arrays, x in zip(spreads, computed, variants, strict=True):
            for name, plainly, y in zip(names, arrays, run(opened, x), strict=True):
                error = error_of_range(y, plainly, scales[name])
                spread[name] = max(spread[name], error)

    if not quantized:  # one integer beside another one would say nothing of rounding
        widen(plain, [moved_by_last_bits(x) for x in inputs])
    del plain  # each has the weights, a few times
    for opened in optimized_sessions(asked):
        widen(opened, inputs)
        del opened
    for x, arrays, spread in zip(inputs, computed, spreads, strict=True):
        outputs = dict(zip(names, arrays, strict=True))
        axes = dict(
            zip(own, class_axes(model, [outputs[name].shape for name in own]), strict=True)
        )
        doubtful = Conditioned(conditioning, x)
        known = {
            name: ReferenceOutput(
                name,
                outputs[name],
                spread[name],
                axes.get(name),
                steps[name],
                scales[name],
                left.get(name, 0.0),
                doubt=None
                if quantized or name in halves
                else OutputDoubt(doubtful, name, outputs[name], scales[name]),
            )
            for name in names
        }
        given = (value.name for value in model_inputs(model))
        values = dict(zip(given, arrays_of(x), strict=True)) | outputs
        yield [
            _labels(name, decisions[name], tails[name], values, known)
            if name in decisions
            else known[name]
            for name in own
        ]


def moved_by_last_bits(x: Feed) -> Feed:
    """Return an input whose floats are moved to one of their neighbours, at random."""
    rng = np.random.default_rng(0)
    moved = []
    for array in arrays_of(x):
        if array.dtype in (np.float32, np.float64):  # a half moves too far
            towards = rng.choice(np.array([-np.inf, np.inf], array.dtype), array.shape)
            moved.append(np.asarray(np.nextafter(array, towards)))
        else:
            moved.append(array)
    return as_feed(moved)


@dataclass(frozen=True)
class _Tail(Answers):
    """The tail of an output, and what enters it for an input of the model.

    Attributes:
        decision: what decides about the output.
        opened: the tail in onnxruntime.
        values: the tensors that enter it, and those that decide, by name.
        ranges: the ranges of those that decide.
    """

    decision: Decision
    opened: ort.InferenceSession
    values: Mapping[str, Array]
    ranges: Mapping[str, float]

    @property
    def ordered(self) -> bool:
        return self.decision.ordered

    def others(self, allowed: float) -> Sequence[Array]:
        leaves = self.decision.leaves
        pairs = [
            alternatives(leaf, self.values, allowed * self.ranges[leaf.deciding])
            for leaf in leaves
        ]
        names = [value.name for value in self.opened.get_inputs()]
        made = []
        for chosen in sides(len(leaves)):
            changed = {
                leaf.name: pair[side]
                for leaf, pair, side in zip(leaves, pairs, chosen, strict=True)
            }
            feed = {name: changed.get(name, self.values.get(name)) for name in names}
            made += [np.asarray(output) for output in self.opened.run(None, feed)]
        return made


def _labels(
    name: str,
    decision: Decision,
    tail: ort.InferenceSession | None,
    outputs: Mapping[str, Array],
    known: Mapping[str, ReferenceOutput],
) -> ReferenceOutput:
    """Return an output of whole numbers, with what decides about them among the known ones."""
    deciding = [known[leaf.deciding] for leaf in decision.leaves]
    spread = max((tensor.spread for tensor in deciding), default=0.0)
    step = max((tensor.step for tensor in deciding if tensor.step is not None), default=None)
    rounding = max((tensor.rounding for tensor in deciding), default=0.0)
    answers: Answers = KnownAnswers((), decision.ordered)
    if tail is not None:
        ranges = {tensor.name: tensor.span for tensor in deciding}
        answers = _Tail(decision, tail, outputs, ranges)
    return ReferenceOutput(
        name, outputs[name], spread, None, step, None, rounding, answers, known[name].doubt
    )


def _tail(decision: Decision) -> ort.InferenceSession | None:
    """Open the tail of an output; None if nothing may differ, or onnxruntime does not take it."""
    if decision.tail is None:
        return None
    with suppress(ModelError):
        return session(decision.tail)
    return None


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model that also gives these tensors as outputs; unknown ones are not."""
    known = {value.name for value in (*model.graph.output, *model.graph.input)}
    more = [onnx.ValueInfoProto(name=name) for name in names if name not in known]
    if not more:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(more)
    return copy


_FEW_VALUES = 16


def computed_in_half(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that depend on arithmetic in fp16 or bfloat16, or are of that type.

    What enters as halves and is converted first is exact.
    """
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.output)
    }
    return _computed_behind(
        graph, lambda node: any(types.get(name) in half for name in node.output)
    )


def behind_integers(model: onnx.ModelProto) -> set[str]:
    """Return the floats of a quantized model that are computed from rounded ones.

    One value that lies at a tie moves them, too, though they have no steps themselves.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    return _computed_behind(
        model.graph,
        lambda node: node.op_type == "DequantizeLinear" and node.input[0] not in stored,
    )


def _computed_behind(graph: onnx.GraphProto, begins: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Return what some nodes make, and all that depends on it."""
    depending: set[str] = set()
    for node in graph.node:
        if begins(node) or not depending.isdisjoint(node.input):
            depending.update(filter(None, node.output))
    return depending


def _step(model: onnx.ModelProto, name: str, scale: NDArray[np.float64]) -> float | None:
    """Return one step of an output that a DequantizeLinear makes, over the output's range."""
    maker = next((node for node in model.graph.node if name in node.output), None)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    scales = [tensor for tensor in model.graph.initializer if tensor.name == maker.input[1]]
    return float(numpy_helper.to_array(scales[0]).max() / scale.min()) if scales else None


def tensors_of(model: onnx.ModelProto, x: Feed, names: Container[str]) -> dict[str, Array]:
    """Return tensors of a model by name, as onnxruntime computes them without optimisations.

    The model's inputs may be among the names; unknown names are left out.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = [name for node in model.graph.node for name in node.output if name in names]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    given = [value.name for value in model_inputs(model)]
    tensors = {
        name: array for name, array in zip(given, arrays_of(x), strict=True) if name in names
    }
    return tensors | dict(zip(wanted, run(session(copy), x), strict=True)) if wanted else tensors


def error_of_range(
    y: Array,
    reference: Array,
    scale: NDArray[np.float64] | None = None,
) -> float:
    """Return the largest absolute error as a fraction of a range, by default the reference's.

    Infinite if the shapes differ, or if one side holds NaN or infinity: that is never parity.
    """
    if y.shape != reference.shape or not (np.isfinite(y).all() and np.isfinite(reference).all()):
        return float("inf")
    if not y.size:
        return 0.0
    errors = np.abs(y.astype(np.float64) - reference.astype(np.float64))
    if scale is not None and scale.size > 1:
        return float((errors / scale).max())
    spread = float(np.ptp(reference.astype(np.float64))) if scale is None else scale.item()
    return over_range(float(errors.max()), spread)
