"""A device's kernels as a search sees them, and libraries in which candidates do equal work.

    def main(x):
        y = candidate_last(x, …)
        y_0 = candidate_0(x, weights packed for it)
        y_1 = candidate_1(x, weights packed for it)
        …
        return y, y_0, y_1, …

Every runner that runs networks runs it: it times, or counts, the candidates side by side, and
their outputs show whether they compute equal values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.tirx import PrimFunc

from mbv3c import bundle as bundles
from mbv3c.feeds import save_array
from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import NO_CHOICES, Array, Choices, Elementwise, Kernel, Plan, Step, Value
from mbv3c.lowering.schedules.emit import LINEAR
from mbv3c.lowering.traced import Operator, Traced
from mbv3c.tuning.choices import MeasuredOn
from mbv3c.tuning.database import Task, draw, weight_shapes


@dataclass(frozen=True)
class TunableKernels:
    """The kernels that a backend writes for one device.

    Attributes:
        measured_on: the device and the version of the kernels, under which measurements are kept.
        target: FAMILY:DEVICE of what is built.
        processor: what the schedules must know of the device.
        schedules: the modules with `legal` and `default`, by the kind of kernel.
        writer: function that gives what writes kernels, from the processor and choices.
        build: function that builds a library with its symbol table.
        methods: the methods of the writer that are not called as the kind.
        draw_integers: function that draws the weights of an integer kernel.
        dequantize: function that writes a conversion of so many int8 numbers to fp32.
        operators: TVM's target, for which TVM's own operators are tuned, too; None: they are not.
    """

    measured_on: MeasuredOn
    target: str
    processor: Any
    schedules: Mapping[str, Any]
    writer: Callable[[Any, Choices], Any]
    build: Callable[[tvm.IRModule, Path], object]
    methods: Mapping[str, str] = field(default_factory=dict)
    draw_integers: Callable[[Any, Any, np.random.Generator], Sequence[Array]] | None = None
    dequantize: Callable[[int, Any], PrimFunc] | None = None
    operators: tvm.target.Target | None = None

    def legal(self, task: Task) -> Sequence[Any]:
        """Return all knobs that a kernel of ours may have, as dataclasses."""
        tiles: Sequence[Any] = self.schedules[task.kind].legal(task.shape, self.processor)
        return tiles

    def default(self, task: Task) -> Any:
        """Return the knobs that the rules choose without a measurement."""
        if isinstance(task.shape, Operator):
            return Traced()
        return self.schedules[task.kind].default(task.shape, self.processor)

    def draw(self, task: Task, random: np.random.Generator) -> Sequence[Array]:
        """Draw the weights of a kernel, as ONNX has them; take those of TVM's operators."""
        if isinstance(task.shape, Operator):
            return [given for given in task.step.arguments if not isinstance(given, str)]
        if task.shape.dtype == "int8" and self.draw_integers is not None:
            return self.draw_integers(task.shape, self.processor, random)
        return [draw(random, extents) for extents in weight_shapes(task)]

    def write(self, task: Task, choices: Choices, weights: Sequence[Array]) -> Kernel:
        """Write a kernel.

        Raises:
            ValueError: the choice does not fit the kernel.
        """
        method = self.methods.get(task.kind, task.kind)
        kernel: Kernel = getattr(self.writer(self.processor, choices), method)(
            task.shape, *weights
        )
        if kernel.warning:
            raise ValueError(kernel.warning)
        return kernel

    def elementwise(self, shape: Elementwise) -> PrimFunc:
        """Write an elementwise function, without knobs."""
        return self.writer(self.processor, NO_CHOICES).elementwise(shape).function

    def in_fp32(self, size: int, dtype: str) -> PrimFunc:
        """Write a conversion of so many numbers of a type to fp32."""
        if dtype == "int8" and self.dequantize is not None:
            return self.dequantize(size, self.processor)
        return self.elementwise(Elementwise(1, 1, size, "", False, LINEAR, dtype, "float32"))


_INPUT = "x"
_SEED = 0
_IN_PARTS = 3  # axes of sums in parts; maps have four, matrices two


@dataclass(frozen=True)
class Contest:
    """A library of candidates.

    Attributes:
        folder: a folder with it and its input, laid out as a bundle.
        calls: the name of the kernel of every call, in order.
        candidates: which of the calls is each candidate's.
        outputs: how many outputs of the library each candidate makes.
        before: how many there are before the first candidate's, of a call that is no candidate.
    """

    folder: Path
    calls: tuple[str, ...]
    candidates: tuple[int, ...]
    outputs: int = 1
    before: int = 0

    def costs(self, rounds: Sequence[Sequence[tuple[str, float]]]) -> list[list[float]]:
        """Return what each round cost every candidate, from its calls' names and costs."""
        own = set(self.calls)
        calls = [[cost for name, cost in turn if name in own] for turn in rounds]
        return [[turn[call] for turn in calls] for call in self.candidates]

    def results(self, made: Sequence[Array]) -> list[Array]:
        """Return one array for every candidate, from all outputs of the library.

        Where a candidate makes several, each counts in units of the largest number that the first
        candidate made there. Sums in parts, [N, parts, C], are added up: how many parts there are
        is the candidate's choice.
        """
        made = made[self.before :]
        if self.outputs == 1:
            return list(made)
        rows = [made[at : at + self.outputs] for at in range(0, len(made), self.outputs)]
        rows = [[_whole(y) for y in row] for row in rows]
        scales = [max(float(np.abs(y).max()), 1e-30) for y in rows[0]]
        return [
            np.concatenate([y.ravel() / scale for y, scale in zip(row, scales, strict=True)])
            for row in rows
        ]


class _Fixed(Choices):
    """Chooses one set of knobs for every kernel."""

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        self._knobs = dict(knobs)

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self._knobs


def write_contest(
    task: Task, tiles: Sequence[Any], kernels: TunableKernels, folder: Path
) -> Contest:
    """Build a library in which every tile of a task runs once.

    Raises:
        Mbv3cError: it cannot be built or linked.
    """
    return write_candidates(task, [asdict(tile) for tile in tiles], kernels, folder)


def write_candidates(
    task: Task, knobs: Sequence[Mapping[str, Any]], kernels: TunableKernels, folder: Path
) -> Contest:
    """Build a library in which a task runs once with each choice of knobs.

    Before the first of them the last one runs. So every call finds equal contents in the caches,
    as if the candidates took turns without an end.

    Raises:
        Mbv3cError: it cannot be built or linked.
    """
    random = np.random.default_rng(_SEED)
    weights = kernels.draw(task, random)
    candidates = [kernels.write(task, _Fixed(each), weights) for each in knobs]
    plan, (_, *calls) = _plan(task, [candidates[-1], *candidates], kernels, random)
    lowered = assembled(plan)
    golden = folder / bundles.GOLDEN_INPUT
    golden.parent.mkdir(parents=True)
    save_array(golden, draw(random, plan.input_shapes[0]))
    kernels.build(lowered.module, folder / bundles.LIBRARY)
    outputs = len(plan.outputs) // (len(candidates) + 1)
    return Contest(folder, lowered.kernels, tuple(calls), outputs, before=outputs)


def _plan(
    task: Task, candidates: Sequence[Kernel], kernels: TunableKernels, random: np.random.Generator
) -> tuple[Plan, tuple[int, ...]]:
    """Return a plan that calls every kernel, and the step of each."""
    parameters = candidates[0].function.params
    shapes = [tuple(int(extent) for extent in param.shape) for param in parameters]
    dtypes = [str(param.dtype) for param in parameters]
    given = task.step.arguments
    read = [isinstance(argument, str) and argument not in task.step.writes for argument in given]
    plan = Plan((_INPUT,), ((1,),), values={_INPUT: Value((1,))})
    shared: dict[int, str | Array] = {}
    for at, is_read in enumerate(read):
        if not is_read:
            continue
        if dtypes[at] == "float32" and plan.input_shapes == ((1,),):
            plan.input_shapes = (shapes[at],)
            plan.values[_INPUT] = Value(shapes[at])
            shared[at] = _INPUT
        else:
            shared[at] = _draw_as(random, shapes[at], dtypes[at])
    in_place = draw(random, shapes[0]) if not any(read) else None
    calls = []
    for number, kernel in enumerate(candidates):
        constants = iter(kernel.constants)
        makes = [tuple(int(extent) for extent in param.shape) for param in kernel.function.params]
        arguments: list[str | Array] = []
        written = []
        for at, argument in enumerate(given):
            if at in shared:
                arguments.append(shared[at])
            elif isinstance(argument, str):
                name = f"y{number}.{at}"
                plan.values[name] = Value(makes[at], dtypes[at])
                arguments.append(name)
                written.append(name)
            else:
                arguments.append(next(constants).astype(dtypes[at], copy=False))
        if in_place is not None:
            plan.steps.append(_copy(in_place.astype(dtypes[0]), written[0], kernels))
        calls.append(len(plan.steps))
        plan.steps.append(Step(task.kind, (), kernel.function, tuple(arguments), tuple(written)))
        made = tuple(_in_fp32(plan, name, kernels) for name in written)
        plan.outputs += made
        plan.output_shapes += tuple(plan.values[name].shape for name in made)
    return plan, tuple(calls)


def _copy(source: Array, name: str, kernels: TunableKernels) -> Step:
    """Return a step that fills what a kernel changes in place."""
    shape = Elementwise(1, 1, source.size, "", False, LINEAR, source.dtype.name)
    return Step("copy", (), kernels.elementwise(shape), (source, name), (name,))


def _whole(made: Array) -> Array:
    """Return an output; of an array [N, parts, C] the sums."""
    return made.sum(axis=1) if made.ndim == _IN_PARTS else made


def _in_fp32(plan: Plan, name: str, kernels: TunableKernels) -> str:
    """Convert what a kernel made, if need be: the meters read outputs in fp32."""
    value = plan.values[name]
    if value.dtype == "float32":
        return name
    result = f"{name}.float32"
    plan.values[result] = Value(value.shape)
    function = kernels.in_fp32(prod(value.shape), value.dtype)
    plan.steps.append(Step("cast", (), function, (name, result), (result,)))
    return result


def _draw_as(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Draw an input; integers from all that there are."""
    if dtype == "int8":
        return random.integers(-128, 128, shape).astype(np.int8)
    return draw(random, shape).astype(dtype)
