"""What one process of a test run makes, and all of them use."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv3c.execution.cache import only_one, provide


def built_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process to ask has had filled; tests must not change it."""
    root = factory.getbasetemp()
    if root.name.startswith("popen-"):  # a process of pytest-xdist, beside the others
        root = root.parent
    place = root / "built once" / name
    with only_one(root / "built once" / f"{name}.lock", logging.getLogger(__name__).info):
        provide(place, make)
    return place
