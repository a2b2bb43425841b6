"""What tests do with a bundle, which may have been changed: open it, and verify or inspect it."""

from pathlib import Path
from typing import Any

from mbv3c.targets import open_bundle
from mbv3c.targets.ethos_u.backend import BACKEND
from mbv3c.targets.ethos_u.verdict import NpuParity


def verify(path: Path) -> NpuParity:
    return BACKEND.verify(open_bundle(path), lambda step: None)


def inspect(path: Path) -> dict[str, Any]:
    """Return what `mbv3c inspect --json` prints."""
    return BACKEND.describe_bundle(open_bundle(path)).document
