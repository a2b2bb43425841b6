"""The user's own inputs, on which a bundle is verified instead of on the seeded ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbv3c.feeds import Feed, arrays_of


@dataclass(frozen=True)
class OwnInputs:
    """Inputs that were read from files.

    Attributes:
        source: origin of the inputs, in words.
        files: names of the files that each input comes from, in words.
        feeds: what the model takes, once per input, in its shapes and types.
        preprocessing: how images were prepared, in the documented form; None without images.
    """

    source: str
    files: Sequence[str]
    feeds: list[Feed]
    preprocessing: dict[str, Any] | None

    @property
    def sha256(self) -> str:
        """A number that is equal only for equal inputs in the same order."""
        digest = hashlib.sha256()
        for x in (array for feed in self.feeds for array in arrays_of(feed)):
            digest.update(f"{x.dtype.str} {x.shape} ".encode())
            digest.update(np.ascontiguousarray(x).data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return {
            "source": self.source,
            "files": list(self.files),
            "sha256": self.sha256,
            "preprocessing": self.preprocessing,
        }
