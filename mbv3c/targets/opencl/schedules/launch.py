"""Words in which the kernels for GPUs are written, beside those of `emit`.

A kernel is what a work-item does. A position in the grid has up to three axes, x first. Work-items
beyond the grid, which fill the last work-group, do nothing. Sums are in single precision, whatever
the type of the tensors is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T  # noqa: N812

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets.opencl.gpus import Gpu

SUM = "float32"
REGISTERS = "mbv3c.registers"  # the attribute of functions that says how many they need
LANES = 4  # of float4 and half4
_AXES = "xyz"
_MOST_WARPS = 4  # in a work-group: larger work-groups wait for their slowest warp

# A barrier's flags to order writes to global memory. OpenCL C 1.2, section 6.12.8: the macro
# CLK_GLOBAL_MEM_FENCE, 2 in the headers of Khronos, Arm, Qualcomm and PoCL. Metal Shading Language
# Specification, synchronization functions: mem_flags::mem_device, 1 in Apple's header.
_FENCES = {"opencl": 2, "metal": 1}


def lanes_for(extent: int) -> int:
    """Return the lanes of the widest vector that divides an axis."""
    return next(lanes for lanes in (LANES, 2, 1) if extent % lanes == 0)


def groups_of(grid: Sequence[int], group: Sequence[int]) -> tuple[int, ...]:
    """Return how many work-groups of the sides `group` cover a grid."""
    return tuple(-(-extent // side) for extent, side in zip(grid, group, strict=True))


def shapes_of_groups(grid: Sequence[int], gpu: Gpu) -> list[tuple[int, int]]:
    """Return sides along x and y of work-groups of one to four warps, none far beyond the grid."""
    sides = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    groups = [
        (across, down)
        for across in sides
        for down in sides
        if across < 2 * grid[0] and down < 2 * grid[1]
        if gpu.warp <= across * down <= _MOST_WARPS * gpu.warp and gpu.fits((across, down))
    ]
    return groups or [(min(grid[0], gpu.group_sides[0], gpu.warp), 1)]


def launched(grid: Sequence[int], group: Sequence[int]) -> int:
    """Return how many work-items cover a grid, including those beyond it."""
    return prod(groups_of(grid, group)) * prod(group)


def split(line: Expr, images: int, rows: int) -> tuple[Expr, Expr]:
    """Return the image and the row of a line; the lines of all images follow each other."""
    return (0, line) if images == 1 else (T.floordiv(line, rows), T.floormod(line, rows))


def offsets_read(axis: Axis, outputs: int) -> list[int]:
    """Return the inputs that a run of outputs reads, counted from its first window's start."""
    taps = (i * axis.stride + s * axis.dilation for i in range(outputs) for s in range(axis.taps))
    return sorted(set(taps))


def inside_rows(axis: Axis, row: Expr) -> list[Expr]:
    """Return the conditions, if any are needed, under which an input row lies inside the map."""
    return axis.within(row, axis.source(0, 0), axis.source(axis.outputs - 1, axis.taps - 1))


def inside_columns(axis: Axis, outputs: int, place: Expr, offset: int) -> list[Expr]:
    """Return the conditions, if any are needed, under which a run's input lies inside the map.

    Args:
        axis: axis along which the runs lie.
        outputs: outputs of a run; the last run may reach beyond the map.
        place: index of the input.
        offset: index of the input, counted from the start of the run's first window.
    """
    last_run = -(-axis.outputs // outputs) - 1
    first, last = (run * outputs * axis.stride + offset - axis.before for run in (0, last_run))
    return axis.within(place, first, last)


@contextmanager
def work_items(grid: Sequence[int], group: Sequence[int]) -> Iterator[tuple[Expr, ...]]:
    """Launch a work-item for every position of a grid; yield the position."""
    with ExitStack() as frames:
        blocks = [
            frames.enter_context(T.launch_thread(f"blockIdx.{_AXES[axis]}", count))
            for axis, count in enumerate(groups_of(grid, group))
        ]
        threads = [
            frames.enter_context(T.launch_thread(f"threadIdx.{_AXES[axis]}", side))
            for axis, side in enumerate(group)
        ]
        at = tuple(
            block * side + thread
            for block, side, thread in zip(blocks, group, threads, strict=True)
        )
        beyond = [
            position < extent
            for position, extent, side in zip(at, grid, group, strict=True)
            if extent % side
        ]
        frames.enter_context(emit.when(beyond))
        yield at


@contextmanager
def shared_out(count: int, items: int, item: Expr) -> Iterator[Expr]:
    """Share `count` pieces of work among the work-items of a group; yield the piece."""
    with emit.loop(-(-count // items)) as turn:
        piece = turn * items + item
        with emit.when([piece < count] if count % items else []):
            yield piece


def registers(name: str, count: int, lanes: int) -> Buffer:
    """Declare private vectors of a work-item, which the device's compiler keeps in registers."""
    return IRBuilder.name(
        name, T.alloc_buffer((count,), emit.vector_type(SUM, lanes), scope="local")
    )


def register(name: str, value: Expr, lanes: int) -> Expr:
    """Compute a vector once and keep it in a register."""
    held = registers(name, 1, lanes)
    put(held, 0, value)
    return held[0]


def put(buffer: Buffer, at: int, value: Expr) -> None:
    """Write a register."""
    T.buffer_store(buffer, value, [at])


def add_to(buffer: Buffer, at: int, value: Expr) -> None:
    """Add to a register; the device's compiler contracts a product to a fused multiply-add."""
    T.buffer_store(buffer, buffer[at] + value, [at])


def read(buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """Load adjacent values and convert them to the type of sums."""
    return emit.cast(emit.load(buffer, *index, lanes=lanes), lanes, SUM)


def read_where(conditions: Sequence[Expr], buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """Load adjacent values if all conditions hold; otherwise read nothing and return 0."""
    value = read(buffer, *index, lanes=lanes)
    if not conditions:
        return value
    return where(emit.all_of(conditions), value, lanes)


def write(buffer: Buffer, value: Expr, *index: Expr, lanes: int, dtype: str) -> None:
    """Convert adjacent values to the type of a tensor and store them."""
    emit.store(buffer, emit.cast(value, lanes, dtype), *index, lanes=lanes)


def where(condition: Expr, value: Expr, lanes: int) -> Expr:
    """Return a value if a condition holds, else 0."""
    return T.if_then_else(condition, value, emit.splat(0.0, lanes, SUM))


def lane(vector: Expr, at: int, lanes: int) -> Expr:
    """Return one value of a vector."""
    return vector if lanes == 1 else tirx.Shuffle([vector], [at])


def barrier(language: str) -> None:
    """Wait for all work-items of the work-group, and for their writes to global memory."""
    fence = tirx.const(_FENCES[language], "int32")
    if language == "metal":
        flags = tirx.call_extern("int32", "mem_flags", fence)
        T.evaluate(tirx.call_extern("void", "threadgroup_barrier", flags))
    else:
        T.evaluate(tirx.call_extern("void", "barrier", fence))


def kernel(name: str, body: Callable[[], None], registers: int) -> tirx.PrimFunc:
    """Make a kernel whose arguments and statements `body` declares.

    `registers` is the number of 32-bit registers that a work-item needs.
    """
    return emit.build_kernel(name, body).with_attr(REGISTERS, registers)
