"""Operands of instructions that multiply matrices: some values of K of two rows, or columns."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Expr

PAIR = 2  # rows or columns of an operand

# Gives the operands of all pairs of rows, of some steps of K from a number on.
Operands = Callable[[Expr, int], list[list[Expr]]]


def in_pairs(row: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return biases or factors of columns in the order of sums: each two, twice."""
    return np.repeat(row.reshape(-1, 1, PAIR), PAIR, axis=1).ravel()


def for_each_step(
    inputs: int,
    depth: int,
    take: Callable[[Expr, int], None],
    *,
    turns: int,
    loop: Callable[[int], AbstractContextManager[Expr]] = emit.loop,
) -> None:
    """Emit `take` for all steps of K, two at once where they are adjacent in x.

    Args:
        inputs: values of K.
        depth: those of an operand.
        take: emits some steps, from the number of the first and how many they are.
        turns: how often two steps are emitted in a turn of the loop.
        loop: makes the loop.
    """
    twos, steps = inputs // (2 * depth), -(-inputs // depth)
    looped = twos - twos % turns
    if looped:
        with loop(looped // turns) as turn:
            for at in range(turns):
                take((turn * turns + at) * 2, 2)
    for two in range(looped, twos):
        take(2 * two, 2)
    for step in range(2 * twos, steps):
        take(step, 1)


def stored(made: Operands, inputs: int, depth: int, pairs: int, dtype: str) -> Operands:
    """Emit what puts all operands of a block of rows on the stack; return what loads them.

    Args:
        made: makes operands.
        inputs: values of K.
        depth: those of an operand.
        pairs: pairs of rows.
        dtype: element type of an operand.
    """
    values = depth * PAIR
    memory = emit.scratch(-(-inputs // depth) * pairs * values, dtype)

    def place(step: Expr, pair: int) -> Expr:
        return (step * pairs + pair) * values

    def store(step: Expr, count: int) -> None:
        for k, operands in enumerate(made(step, count)):
            for pair, operand in enumerate(operands):
                emit.store(memory, operand, place(step + k, pair), lanes=values)

    def load(step: Expr, count: int) -> list[list[Expr]]:
        return [
            [emit.load(memory, place(step + k, pair), lanes=values) for pair in range(pairs)]
            for k in range(count)
        ]

    for_each_step(inputs, depth, store, turns=1)
    return load
