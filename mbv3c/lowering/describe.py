"""Say what a lowered network consists of: its kernels and its memory, as data."""

from typing import Any

from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import Argument, Plan


def describe(lowered: Lowered) -> dict[str, Any]:
    """Return the parts of a manifest that speak of kernels and memory.

    `kernels` has one entry per call, in order: the kernel's name in the library, its kind, the
    ONNX nodes that it covers, multiply-adds, the bytes of all tensors that it reads or writes,
    each counted once, its knobs, where these come from (one of `ORIGINS`; null without knobs),
    and its arguments. An argument is null for a constant; else it has its type, its shape
    in memory, whether an image's channels are last, and the names of the tensors that lie there
    before and after the call (null if it is no tensor of the graph). `memory` has the bytes of the
    weights as packed, of the arena and of its blocks, the largest sum of values alive at one call
    (no arena can be smaller), and for every value its block and the calls that touch it first and
    last.
    """
    plan, arena = lowered.plan, lowered.arena
    return {
        "kernels": [
            {
                "kernel": name,
                "kind": step.kind,
                "nodes": list(step.nodes),
                "madds": step.madds,
                "bytes": plan.bytes_moved(step),
                "knobs": step.knobs,
                "origin": step.origin or None,
                "arguments": [_argument(plan, argument) for argument in arguments],
            }
            for name, step, arguments in zip(
                lowered.kernels, plan.steps, plan.arguments(), strict=True
            )
        ],
        "memory": {
            "weight_bytes": sum(step.constant_bytes for step in plan.steps),
            "arena_bytes": arena.bytes,
            "arena_lower_bound": arena.lower_bound,
            "arena_blocks": list(arena.blocks),
            "values": [
                {
                    "value": lifetime.value,
                    "block": lifetime.block,
                    "bytes": lifetime.bytes,
                    "first": lifetime.first,
                    "last": lifetime.last,
                }
                for lifetime in arena.lifetimes
            ],
        },
    }


def _argument(plan: Plan, argument: Argument | None) -> dict[str, Any] | None:
    if argument is None:
        return None
    value, held = plan.values[argument.value], argument.writes or argument.reads
    return {
        "dtype": value.dtype,
        "shape": list(value.shape),
        "channels_last": held is not None and held.channels_last,
        "reads": argument.reads and argument.reads.tensor,
        "writes": argument.writes and argument.writes.tensor,
    }
