"""A library in which several candidates for one kernel do the same work, one after another.

    def main(x):
        y = candidate_last(x, …)
        y_0 = candidate_0(x, weights packed for it)
        y_1 = candidate_1(x, weights packed for it)
        …
        return y, y_0, y_1, …

Every runner that runs networks runs it: it times, or counts, the candidates side by side, and
their outputs show whether they compute the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mbv3c import bundle as bundles
from mbv3c.job import Target
from mbv3c.lowering.kernels import Choices, Kernel
from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import Array, Plan, Step, Value
from mbv3c.lowering.schedules.epilogue import LINEAR
from mbv3c.lowering.shapes import Elementwise
from mbv3c.targets.cpu.drawing import draw_integers
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules.integer.elementwise import (
    Dequantize,
    Operand,
    generate_dequantize,
)
from mbv3c.targets.library import build, write, writer
from mbv3c.targets.opencl.gpu import Gpu
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.pointwise import Product
from mbv3c.tuning.tasks import Task

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
        calls = [[cost for name, cost in one if name in own] for one in rounds]
        return [[one[call] for one in calls] for call in self.candidates]

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
        rows = [[_whole(one) for one in row] for row in rows]
        scales = [max(float(np.abs(one).max()), 1e-30) for one in rows[0]]
        return [
            np.concatenate([one.ravel() / scale for one, scale in zip(row, scales, strict=True)])
            for row in rows
        ]


class _Fixed(Choices):
    """Chooses the same knobs for every kernel."""

    def __init__(self, tile: Any) -> None:
        self._tile = asdict(tile)

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self._tile


def write_contest(
    task: Task, tiles: Sequence[Any], machine: Processor | Gpu, target: Target, folder: Path
) -> Contest:
    """Build a library in which every tile of a task runs once.

    Before the first of them the last one runs: what a call finds in the caches is then the same
    for all, as if they took turns without an end.

    Raises:
        Mbv3cError: it cannot be built or linked.
    """
    random = np.random.default_rng(_SEED)
    if task.shape.dtype == "int8" and isinstance(machine, Processor):
        weights = draw_integers(task.shape, machine, random)
    else:
        weights = [_draw(random, shape) for shape in _raw_shapes(task)]
    kernels = [write(machine, _Fixed(tile), task.kind, task.shape, weights) for tile in tiles]
    plan, (_, *candidates) = _plan(task, [kernels[-1], *kernels], machine, random)
    lowered = assembled(plan)
    golden = folder / bundles.GOLDEN_INPUT
    golden.parent.mkdir(parents=True)
    np.save(golden, _draw(random, plan.input_shape))
    build(lowered.module, target, folder / bundles.LIBRARY, symbols=True)
    outputs = len(plan.outputs) // (len(kernels) + 1)
    return Contest(folder, lowered.kernels, tuple(candidates), outputs, before=outputs)


def _plan(
    task: Task, kernels: Sequence[Kernel], machine: Processor | Gpu, random: np.random.Generator
) -> tuple[Plan, tuple[int, ...]]:
    """Return a plan that calls every kernel, and the step of each."""
    parameters = kernels[0].function.params
    shapes = [tuple(int(extent) for extent in one.shape) for one in parameters]
    dtypes = [str(one.dtype) for one in parameters]
    given = task.step.arguments
    read = [isinstance(one, str) and one not in task.step.writes for one in given]
    plan = Plan(_INPUT, (1,), values={_INPUT: Value((1,))})
    shared: dict[int, str | Array] = {}
    for at, is_read in enumerate(read):
        if not is_read:
            continue
        if dtypes[at] == "float32" and plan.input_shape == (1,):
            plan.input_shape = shapes[at]
            plan.values[_INPUT] = Value(shapes[at])
            shared[at] = _INPUT
        else:
            shared[at] = _draw_as(random, shapes[at], dtypes[at])
    in_place = _draw(random, shapes[0]) if not any(read) else None
    candidates = []
    for number, kernel in enumerate(kernels):
        constants = iter(kernel.constants)
        makes = [tuple(int(extent) for extent in one.shape) for one in kernel.function.params]
        arguments: list[str | Array] = []
        written = []
        for at, one in enumerate(given):
            if at in shared:
                arguments.append(shared[at])
            elif isinstance(one, str):
                name = f"y{number}.{at}"
                plan.values[name] = Value(makes[at], dtypes[at])
                arguments.append(name)
                written.append(name)
            else:
                arguments.append(next(constants).astype(dtypes[at], copy=False))
        if in_place is not None:
            plan.steps.append(_copy(in_place.astype(dtypes[0]), written[0], machine))
        candidates.append(len(plan.steps))
        plan.steps.append(Step(task.kind, (), kernel.function, tuple(arguments), tuple(written)))
        made = tuple(_in_fp32(plan, name, machine) for name in written)
        plan.outputs += made
        plan.output_shapes += tuple(plan.values[name].shape for name in made)
    return plan, tuple(candidates)


def _copy(source: Array, name: str, machine: Processor | Gpu) -> Step:
    """Return a step that fills what a kernel changes in place."""
    dtype = source.dtype.name
    shape = Elementwise(1, 1, source.size, "", False, LINEAR, dtype)
    function = writer(machine).elementwise(shape).function
    return Step("copy", (), function, (source, name), (name,))


def _whole(made: Array) -> Array:
    """Return an output; of an array [N, parts, C] the sums."""
    return made.sum(axis=1) if made.ndim == _IN_PARTS else made


def _in_fp32(plan: Plan, name: str, machine: Processor | Gpu) -> str:
    """Convert what a kernel made, if need be: the runners write outputs in fp32."""
    value = plan.values[name]
    if value.dtype == "float32":
        return name
    result, size = f"{name}.float32", prod(value.shape)
    plan.values[result] = Value(value.shape)
    if value.dtype == "int8" and isinstance(machine, Processor):
        function = generate_dequantize(Dequantize(size, Operand(1.0, 0)), machine)
    else:
        shape = Elementwise(1, 1, size, "", False, LINEAR, value.dtype, "float32")
        function = writer(machine).elementwise(shape).function
    plan.steps.append(Step("cast", (), function, (name, result), (result,)))
    return result


def _raw_shapes(task: Task) -> list[tuple[int, ...]]:
    """Return the extents of the weights, as ONNX has them, that a kernel of the kind takes."""
    shape = task.shape
    if isinstance(shape, Product | DepthwiseMap):
        shape = shape.shape
    match task.kind:
        case "pointwise":
            return [(shape.outputs, shape.inputs), (shape.outputs,)]
        case "depthwise":
            taps = (shape.vertical.taps, shape.horizontal.taps)
            return [(shape.channels, 1, *taps), (shape.channels,)]
        case "convolution":
            taps = (shape.vertical.taps, shape.horizontal.taps)
            return [(shape.outputs, shape.inputs, *taps), (shape.outputs,)]
        case "squeeze_excite" | "gates":
            c, s = shape.channels, shape.squeezed
            return [(s, c), (s,), (c, s), (c,)]
    return []


def _draw_as(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Draw an input; integers from all that there are."""
    if dtype == "int8":
        return random.integers(-128, 128, shape).astype(np.int8)
    return _draw(random, shape).astype(dtype)


def _draw(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return random.standard_normal(shape).astype(np.float32)
