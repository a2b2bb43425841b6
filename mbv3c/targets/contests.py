"""The kind of jobs `contest`: candidates for a kernel, counted against each other."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mbv3c.progress import Progress
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.library.backend import LibraryBackend
from mbv3c.targets.library.contest_jobs import hold_contest
from mbv3c.targets.library.target import LibraryTarget, resolve


def contest(
    options: Mapping[str, Any], files: Mapping[str, Path], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Hold a contest, as `hold_contest` says."""
    target = find_target(options["target"])
    backend = backend_of(target)
    assert isinstance(target, LibraryTarget)
    assert isinstance(backend, LibraryBackend)
    return hold_contest(backend, resolve(replace(target, cores=options["cores"])), options)
