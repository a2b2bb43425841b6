"""Say what a lowered network consists of: its kernels and its memory, as data."""

from dataclasses import dataclass
from typing import Any

from mbv3c.lowering import traced
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import Argument, Plan


@dataclass(frozen=True)
class ArgumentRecord:
    """An argument of a kernel call that is no constant.

    Attributes:
        dtype: the element type.
        shape: the extents in memory.
        channels_last: whether an image has its channels last.
        reads: the tensor of the graph that the memory holds before the call; None for none.
        writes: the tensor of the graph that the memory holds after the call; None for none.
    """

    dtype: str
    shape: tuple[int, ...]
    channels_last: bool
    reads: str | None
    writes: str | None


@dataclass(frozen=True)
class KernelRecord:
    """One call of a kernel.

    Attributes:
        kernel: the kernel's name in the library.
        kind: the kind of kernel, as `SCHEDULES` names it.
        nodes: the ONNX nodes that the call covers.
        madds: the number of multiply-adds.
        bytes: the size of all tensors that the call reads or writes, each counted once.
        knobs: the value of every knob; empty if there was nothing to choose.
        origin: where the knobs come from, one of `ORIGINS`; None if there was nothing to choose.
        arguments: the arguments in order; None for a constant.
    """

    kernel: str
    kind: str
    nodes: tuple[str, ...]
    madds: int
    bytes: int
    knobs: dict[str, Any]
    origin: str | None
    arguments: tuple[ArgumentRecord | None, ...]


@dataclass(frozen=True)
class LifetimeRecord:
    """A value in the arena.

    Attributes:
        value: the value's name in the plan.
        block: the block of the arena that holds it.
        bytes: the size.
        first: the call that touches it first.
        last: the call that touches it last.
    """

    value: str
    block: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryRecord:
    """The memory of an inference, in bytes.

    Attributes:
        weight_bytes: the weights as packed.
        arena_bytes: the arena.
        arena_lower_bound: the largest sum of values alive at one call; no arena can be smaller.
        arena_blocks: the blocks of the arena.
        values: the values in the arena.
    """

    weight_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    arena_blocks: tuple[int, ...]
    values: tuple[LifetimeRecord, ...]


def kernels_of(lowered: Lowered) -> tuple[KernelRecord, ...]:
    """Describe every kernel call of a lowered network, in the order of the calls."""
    plan = lowered.plan
    calls = zip(lowered.kernels, plan.steps, plan.arguments(), strict=True)
    return tuple(
        KernelRecord(
            kernel=str(kernel),
            kind=step.kind,
            nodes=tuple(step.nodes),
            madds=step.madds,
            bytes=plan.bytes_moved(step),
            knobs=traced.described(step.knobs, step.operator),
            origin=step.origin or None,
            arguments=tuple(_argument(plan, argument) for argument in arguments),
        )
        for kernel, step, arguments in calls
    )


def memory_of(lowered: Lowered) -> MemoryRecord:
    """Describe the memory of a lowered network."""
    arena = lowered.arena
    return MemoryRecord(
        weight_bytes=sum(step.constant_bytes for step in lowered.plan.steps),
        arena_bytes=arena.bytes,
        arena_lower_bound=arena.lower_bound,
        arena_blocks=tuple(arena.blocks),
        values=tuple(
            LifetimeRecord(
                lifetime.value, lifetime.block, lifetime.bytes, lifetime.first, lifetime.last
            )
            for lifetime in arena.lifetimes
        ),
    )


def _argument(plan: Plan, argument: Argument | None) -> ArgumentRecord | None:
    if argument is None:
        return None
    value, held = plan.values[argument.value], argument.writes or argument.reads
    return ArgumentRecord(
        dtype=str(value.dtype),  # TVM's strings are a type of their own
        shape=tuple(value.shape),
        channels_last=held is not None and held.channels_last,
        reads=argument.reads.tensor if argument.reads else None,
        writes=argument.writes.tensor if argument.writes else None,
    )
