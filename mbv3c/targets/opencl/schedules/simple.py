"""What touches every value once: pools, sums, activations, changes of layout and type."""

from contextlib import AbstractContextManager

from tvm.tirx import PrimFunc

from mbv3c.lowering.plan import Elementwise, GlobalPool, Transpose
from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import LINEAR, Expr
from mbv3c.targets.opencl.gpus import Gpu
from mbv3c.targets.opencl.schedules import launch

_REGISTERS = 24  # three vectors, and addresses


def generate_pool(shape: GlobalPool, gpu: Gpu) -> PrimFunc:
    """Write a global average pool: x [B, P, C] and y [B, C]; a work-item makes a few channels."""
    c, lanes = shape.channels, launch.lanes_for(shape.channels)

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.places, c), shape.dtype)
        y = emit.argument("y", (shape.batch, c), shape.dtype)
        with _over((c // lanes, shape.batch), gpu) as (vector, image):
            first = vector * lanes
            acc = launch.registers("acc", 1, lanes)
            launch.put(acc, 0, emit.splat(0.0, lanes, launch.SUM))
            with emit.loop(shape.places) as place:
                launch.add_to(acc, 0, launch.read(x, image, place, first, lanes=lanes))
            mean = acc[0] * emit.splat(1 / shape.places, lanes, launch.SUM)
            launch.write(y, mean, image, first, lanes=lanes, dtype=shape.dtype)

    return launch.kernel("global_pool", body, _REGISTERS)


def generate_elementwise(shape: Elementwise, gpu: Gpu, gates: str = "") -> PrimFunc:
    """Write y = activation(a ∘ b): a [B, P, C], (b), y [B, P, C].

    `gates` is the element type of b if b is [B, C]; empty for the type of a.
    """
    b, p, c = shape.batch, shape.places, shape.channels
    lanes = launch.lanes_for(c)
    result = shape.result or shape.dtype
    plain = not shape.operator and shape.activation == LINEAR

    def body() -> None:
        first = emit.argument("a", (b, p, c), shape.dtype)
        second = None
        if shape.operator:
            extents = (b, c) if shape.per_channel else (b, p, c)
            second = emit.argument("b", extents, gates or shape.dtype)
        y = emit.argument("y", (b, p, c), result)
        with _over((c // lanes, p, b), gpu) as (vector, place, image):
            at = vector * lanes
            if plain:  # of any type
                value = emit.load(first, image, place, at, lanes=lanes)
                emit.store(y, emit.cast(value, lanes, result), image, place, at, lanes=lanes)
                return
            value = launch.read(first, image, place, at, lanes=lanes)
            if second is not None:
                index = (image, at) if shape.per_channel else (image, place, at)
                other = launch.read(second, *index, lanes=lanes)
                value = value + other if shape.operator == "add" else value * other
            value = shape.activation.apply(value, lanes, launch.SUM)
            launch.write(y, value, image, place, at, lanes=lanes, dtype=result)

    return launch.kernel("elementwise", body, _REGISTERS)


def generate_transpose(shape: Transpose, gpu: Gpu) -> PrimFunc:
    """Write x [B, rows, columns] to y [B, columns, rows]."""
    result = shape.result or shape.dtype

    def body() -> None:
        x = emit.argument("x", (shape.batch, shape.rows, shape.columns), shape.dtype)
        y = emit.argument("y", (shape.batch, shape.columns, shape.rows), result)
        with _over((shape.rows, shape.columns, shape.batch), gpu) as (i, j, image):
            emit.store(y, emit.cast(x[image, i, j], 1, result), image, j, i, lanes=1)

    return launch.kernel("transpose", body, _REGISTERS)


def _over(grid: tuple[int, ...], gpu: Gpu) -> AbstractContextManager[tuple[Expr, ...]]:
    """Launch a work-item for every position, in work-groups that are long along x."""
    shapes = launch.shapes_of_groups(grid, gpu)
    across, down = max(shapes, key=lambda group: (-launch.launched(grid[:2], group), group[0]))
    return launch.work_items(grid, (across, down, 1)[: len(grid)])
