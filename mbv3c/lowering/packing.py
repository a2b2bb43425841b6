"""Choices of kernels for several programs of one network, so that they share their weights.

Weights lie in panels as wide as the kernel's tile. The first program is free to choose; those
after it keep the width of its panels where they have equal weights, and choose the rest.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from mbv3c.lowering.plan import Array, Choices

_Key = tuple[str, tuple[int, ...], bytes]


@dataclass
class SharedPacking(Choices):
    """What was measured to be best, but for the knobs by which weights are packed already.

    Attributes:
        inner: what was measured to be best.
        packed: the knobs by which weights are packed, by their type, shape and contents.
    """

    inner: Choices
    packed: dict[_Key, dict[str, Any]] = field(default_factory=dict)

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self.inner.find(kind, shape)

    def near(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self.inner.near(kind, shape)

    def kept(self, weights: Array) -> dict[str, Any]:
        return self.packed.get(_key_of(weights), {})

    def note(self, weights: Array, knobs: dict[str, Any]) -> None:
        self.packed.setdefault(_key_of(weights), knobs)


def _key_of(weights: Array) -> _Key:
    return str(weights.dtype), weights.shape, hashlib.sha256(weights.tobytes()).digest()
