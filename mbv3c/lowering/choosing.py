"""Which knobs a kernel is written with: those that were measured, or those of the usual rules."""

from dataclasses import asdict
from typing import Any

from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED, Array, Choices


def chosen(
    schedule: Any,
    choices: Choices,
    kind: str,
    shape: Any,
    processor: Any,
    weights: Array | None = None,
) -> tuple[Any, str]:
    """Return the knobs for a kernel of a kind and a shape, and where they come from.

    Measured knobs that are not legal here are not used: they come from another version, or from a
    similar shape. Where `choices` keeps knobs for the `weights`, the others are as near to the
    usual ones as they allow.
    """
    kept = {} if weights is None else choices.kept(weights)

    def fits(tile: Any) -> bool:
        return kept.items() <= asdict(tile).items()

    for find, origin in ((choices.find, TUNED), (choices.near, TRANSFERRED)):
        knobs = find(kind, shape)
        if knobs is not None:
            for tile in schedule.legal(shape, processor):
                if asdict(tile) == knobs and fits(tile):
                    return tile, origin
    default = schedule.default(shape, processor)
    others = [] if fits(default) else list(filter(fits, schedule.legal(shape, processor)))
    if not others:
        return default, DEFAULT
    return min(others, key=lambda tile: _distance(tile, default)), TRANSFERRED


def _distance(tile: Any, other: Any) -> int:
    """Return by how much the knobs of two tiles differ."""
    pairs = zip(asdict(tile).values(), asdict(other).values(), strict=True)
    return sum(abs(a - b) if isinstance(a, int) else int(a != b) for a, b in pairs)
