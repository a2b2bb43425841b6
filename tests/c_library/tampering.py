"""Bundles with files in C that somebody changed, and what is found of it."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.library.again import lowered_again
from mbv3c.targets.library.backend import LibraryBackend


def changed(bundle: Path, folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """Return a copy of a bundle that was changed, with hashes that fit."""
    copied = folder / "bundle"
    shutil.copytree(bundle, copied)
    manifest = json.loads((copied / "manifest.json").read_text())
    change(copied, manifest)
    for name in manifest["files"]:
        manifest["files"][name] = sha256((copied / name).read_bytes()).hexdigest()
    (copied / "manifest.json").write_text(json.dumps(manifest))
    return copied


def replaced(path: Path, old: str, new: str) -> None:
    """Replace a text in a file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def swapped(one: Path, other: Path) -> None:
    """Give each of two files the other's contents."""
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def differing(path: Path) -> tuple[str, ...]:
    """Return what `verify` says of a bundle's files in C; nothing of a library is run."""
    bundle = open_bundle(path)
    backend = backend_for(bundle)
    assert isinstance(backend, LibraryBackend)
    lowered = lowered_again(backend, bundle).lowered
    found = backend.check_files(bundle, lowered, lambda step: None)
    assert found is not None
    assert found.missed == list(found.differing)
    return found.differing
