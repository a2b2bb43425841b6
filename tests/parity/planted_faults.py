"""The command line with a fault in the compiler: `python planted_faults.py FAULT ARGUMENTS…`.

Each fault is one that a person might write. It is planted before anything else is imported, so
that everything that compiles has it.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from mbv3c import passes


def _rewrite(name: str) -> None:
    """Put a broken rewrite of `planted` in the place of the one that it derives from."""
    from tests.passes import planted

    broken = getattr(planted, name)()
    replaced = type(broken).__mro__[1]
    for order in ("PIPELINE", "COMPILING"):
        planted_in = (broken if type(one) is replaced else one for one in getattr(passes, order))
        setattr(passes, order, tuple(planted_in))


def wrong_epsilon() -> None:
    """BatchNormalization folded with torch's epsilon, not the graph's."""
    _rewrite("WrongEpsilon")


def hard_swish_of_29() -> None:
    """2.9 where hard-swish has 3."""
    _rewrite("HardSwishOf29")


def gate_over_height() -> None:
    """The gate of squeeze-and-excite averages columns, not the map."""
    _rewrite("GateOverHeight")


def wrong_side() -> None:
    """Explicit padding folded into the wrong side of a convolution."""
    _rewrite("WrongSide")


def last_column() -> None:
    """A depthwise kernel of stride 2 that never writes the last column of its map."""
    from mbv3c.lowering.schedules import windows
    from mbv3c.targets.cpu.schedules import depthwise

    whole = windows.for_each_run

    def skipping(axis: windows.Axis, outputs: int, start: int, body: Callable[..., None]) -> None:
        short = replace(axis, size=axis.size - axis.stride) if axis.stride == 2 else axis
        whole(short, outputs, start, body)

    depthwise.for_each_run = skipping


def swapped_panels() -> None:
    """The first two panels of packed weights, swapped in products of 72 inputs."""
    from mbv3c.targets.cpu.schedules import pointwise

    packed = pointwise.pack

    def swapping(shape: Any, tile: Any, machine: Any, weights: Any) -> Any:
        if shape.inputs == 72:
            width = min(machine.lanes(shape.dtype), shape.outputs // 2)
            first, second = weights[:width], weights[width : 2 * width]
            weights = np.concatenate([second, first, weights[2 * width :]])
        return packed(shape, tile, machine, weights)

    pointwise.pack = swapping


def halved_scale() -> None:
    """The factor of one int8 convolution, off by one power of two."""
    from mbv3c.targets.cpu import select_integers

    rounding_of = select_integers.rounding_of

    def halving(node: Any, *given: Any, **named: Any) -> Any:
        *others, scale = rounding_of(node, *given, **named)
        planted = (scale / 2).astype(scale.dtype)
        return *others, planted if node.name == "bneck2.project.conv" else scale

    select_integers.rounding_of = halving


FAULTS = {
    fault.__name__: fault
    for fault in (
        wrong_epsilon,
        hard_swish_of_29,
        gate_over_height,
        wrong_side,
        last_column,
        swapped_panels,
        halved_scale,
    )
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    from mbv3c.cli import main

    main()
