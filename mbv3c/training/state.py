"""The state of a training on the disk, from which it goes on.

A folder holds `state.safetensors`, in which all tensors and the losses are, and `checkpoint.onnx`.
Both are written whole, so that an interruption at any moment leaves the last or the new one.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mbv3c.atomic import new_file
from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import BundleError, UsageError
from mbv3c.journal import differing
from mbv3c.records import open_locked

CHECKPOINT = "checkpoint.onnx"
_STATE = "state.safetensors"
_LOCK = "lock"
_LOSSES = "losses"
_OWN = (_LOCK, _STATE, CHECKPOINT)
_UNFINISHED = tuple(f".{name}.mbv3c-" for name in _OWN)  # of a process that was killed


@dataclass(frozen=True)
class State:
    """All that a training goes on from.

    Attributes:
        tensors: tensors by what they are and by name, such as `weights` and `stem.weight`.
        losses: loss of each step that is done.
    """

    tensors: Mapping[str, Mapping[str, NDArray[np.float32]]]
    losses: tuple[float, ...]


class Journal:
    """An open folder of a training.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path, self._key = path, dict(key)

    def read(self) -> State | None:
        """Return the last state; None if there is none, or if it is damaged.

        Raises:
            UsageError: it is that of another training.
        """
        path = self.path / _STATE
        if not path.is_file():
            return None
        tensors: dict[str, dict[str, NDArray[np.float32]]] = {}
        try:
            with safe_open(path, "numpy") as file:
                self._check(parse_json((file.metadata() or {})["key"]))
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    kind, _, own = name.partition("/")
                    tensors.setdefault(kind, {})[own] = file.get_tensor(name)
            losses = tensors.pop(_LOSSES)[""]
        except (OSError, SafetensorError, Refused, KeyError) as error:
            raise UsageError(
                f"{path} is damaged: {error}; remove {self.path} to begin anew"
            ) from error
        return State(tensors, tuple(map(float, losses)))

    def write(self, state: State, model: onnx.ModelProto) -> None:
        """Write a state, and the model as it is then.

        Raises:
            BundleError: they cannot be written.
        """
        stored: dict[str, NDArray[Any]] = {
            f"{kind}/{name}": np.ascontiguousarray(value)
            for kind, tensors in state.tensors.items()
            for name, value in tensors.items()
        }
        stored[f"{_LOSSES}/"] = np.array(state.losses, np.float64)
        with new_file(self.path / _STATE, force=True) as path:
            try:
                save_file(stored, path, {"key": json.dumps(self._key)})
            except SafetensorError as error:
                raise BundleError(
                    f"cannot write {self.path / _STATE}: {error}; free some space: what it held "
                    "is kept"
                ) from error
        with new_file(self.path / CHECKPOINT, force=True) as path:
            path.write_bytes(model.SerializeToString(deterministic=True))

    def _check(self, found: Any) -> None:
        other = list(self._key)
        if isinstance(found, dict):
            other = [name.rpartition(".")[2] for name in differing(found, self._key)]
        if other:
            raise UsageError(
                f"{self.path} belongs to another training, with other {', '.join(other)}; remove "
                "it to begin anew, or write to another place"
            )


@contextmanager
def open_journal(path: Path, key: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the folder of a training, or make it, and keep other processes out.

    Args:
        path: the folder.
        key: all that the training depends on.

    Raises:
        UsageError: another process has it, or it holds other things.
        BundleError: it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_own(path)
        lock = open_locked(path / _LOCK)
    except BlockingIOError as error:
        raise UsageError(f"another process trains in {path}; wait for it") from error
    except OSError as error:
        raise BundleError(
            f"cannot write to {path}: {error.strerror}; choose another place"
        ) from error
    with lock:
        yield Journal(path, json.loads(json.dumps(key)))


def _check_own(path: Path) -> None:
    """Refuse a folder that holds other things: at the end of a training it is removed."""
    names = (each.name for each in path.iterdir())
    others = sorted(
        name for name in names if name not in _OWN and not name.startswith(_UNFINISHED)
    )
    if others:
        raise UsageError(
            f"{path} is for the state of the training, and holds {others[0]}; move that "
            "elsewhere, or write to another place"
        )
