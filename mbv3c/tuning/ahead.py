"""Which contests come next, told before those that come first are held.

A search decides on a batch by all that was measured before. But the candidates of a kernel depend
on that kernel alone, and most batches find nothing much better. So the search is played on as if
no batch did: what it asks for then is asked for later in any case, unless the budget ends before.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace

from mbv3c.lowering.traced import Operator
from mbv3c.tuning.holding import Wanted
from mbv3c.tuning.state import State, next_kernel

BATCH = 12  # candidates


def wanted(state: State, chosen: Sequence[int]) -> Wanted:
    """Return the contest of some candidates against the default."""
    return Wanted(state.task, [state.search.tiles[at] for at in (0, *chosen)])


def foreseen(
    states: Sequence[State], first: tuple[State, Sequence[int]], left: int | None, patience: int
) -> Iterator[Wanted]:
    """Yield a batch that was decided on, and then those that are likely to follow, one a kernel.

    Nothing is changed by it. What TVM's operators come to is not foreseen: MetaSchedule cannot
    draw candidates without going on.

    Args:
        states: all kernels.
        first: the batch that was decided on.
        left: candidates that may be measured, those of `first` among them; None for any number.
        patience: as `Budget` has it.
    """
    state, chosen = first
    yield wanted(state, chosen)
    played = [_copied(one) for one in states if one is not state or one.cost is not None]
    asked = {state.task.key}
    left = None if left is None else left - len(chosen)
    for one in played:
        if one.task.key == state.task.key and not _is_operator(one):
            one.search.learn(dict.fromkeys(chosen))
    while left is None or left > 0:
        following = next_kernel(played, patience)
        if following is None:
            return
        count = BATCH if left is None else min(BATCH, left)
        drawn: Sequence[int] = range(count)
        if not _is_operator(following):
            drawn = following.search.next(count, following.random)
            if following.task.key not in asked:
                asked.add(following.task.key)
                yield wanted(following, drawn)
            following.search.learn(dict.fromkeys(drawn))
        left = None if left is None else left - len(drawn)
        if following.cost is None or _is_operator(following):
            # What it costs says when its next turn is.
            played = [one for one in played if one is not following]


def _is_operator(state: State) -> bool:
    return isinstance(state.task.shape, Operator)


def _copied(state: State) -> State:
    if _is_operator(state):
        return state
    search = replace(state.search, seen=dict(state.search.seen))
    return replace(state, search=search, random=deepcopy(state.random))
