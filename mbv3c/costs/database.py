"""What was asked before: a file of records per target, precision and versions, which only grows.

    FOLDER/FAMILY/DEVICE/int8-6f0c2a91b5de.jsonl

The first line says what the records have in common, in words; its digest is part of the file's
name, so that another version has another file and takes nothing wrong over. The other lines are
records: a kernel by its key, or a network by a digest of its layers, with a checksum. Several
processes may write at once: each takes the file's lock, and reads what others have written before.
A line that was torn by a kill is dropped when the file is next written to. This is a cache: what
is damaged is asked for again.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mbv3c.costs.types import NetworkCost
from mbv3c.door.documents import MOST_RECORDS, parse_json
from mbv3c.door.files import Refused, plain_file
from mbv3c.errors import Mbv3cError
from mbv3c.records import append, open_locked, whole_lines

Resources = Mapping[str, float]


class CostDatabaseError(Mbv3cError):
    """A database of costs cannot be read or written."""


DEVICE = "device"  # the key of a context's versions that says which device measured


@dataclass(frozen=True)
class CostContext:
    """What decides costs beside the network.

    Attributes:
        target: FAMILY:DEVICE.
        precision: name of the precision.
        versions: what makes the costs, by name: packages, kernels, configurations of the device.
    """

    target: str
    precision: str
    versions: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(_text(asdict(self)).encode()).hexdigest()[:12]


@dataclass
class CostTable:
    """The records of one context.

    Attributes:
        folder: the folder of all databases.
        context: what the records have in common.
        kernels: costs by key.
        networks: costs by digest.
        damaged: the number of lines that could not be read.
    """

    folder: Path
    context: CostContext
    kernels: dict[str, Resources] = field(default_factory=dict)
    networks: dict[str, NetworkCost] = field(default_factory=dict)
    damaged: int = 0
    _read: int = 0  # bytes of the file that were read so far

    @property
    def path(self) -> Path:
        family, _, device = self.context.target.partition(":")
        name = f"{self.context.precision}-{self.context.digest}.jsonl"
        return self.folder / family / device / name

    def refresh(self) -> None:
        """Read what was written since the last time, also by others.

        Raises:
            CostDatabaseError: the file cannot be read.
        """
        try:
            with plain_file(self.path, MOST_RECORDS) as file:
                if os.fstat(file.fileno()).st_size < self._read:  # another file is in its place
                    self._read = self.damaged = 0
                    self.kernels.clear()
                    self.networks.clear()
                file.seek(self._read)
                for line in whole_lines(file):
                    self._read += len(line)
                    self._take(line)
        except FileNotFoundError:
            return
        except (OSError, Refused) as error:
            raise CostDatabaseError(
                f"{self.path} cannot be read ({error}); move it away, or give another --costs"
            ) from error

    def add(
        self,
        kernels: Mapping[str, Resources] | None = None,
        networks: Mapping[str, NetworkCost] | None = None,
    ) -> None:
        """Keep what was found; when this returns it is on the disk.

        What another process found first stays, so that all processes go by equal costs.

        Raises:
            CostDatabaseError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open_locked(self.path, lambda: None) as file:
                self.refresh()
                if self._read < os.fstat(file.fileno()).st_size:
                    os.truncate(self.path, self._read)  # a torn last line
                lines = list(self._lines(kernels or {}, networks or {}))
                if lines:
                    append(file, "".join(lines).encode())
                self.refresh()
        except OSError as error:
            raise CostDatabaseError(
                f"cannot write {self.path}: {error.strerror or error}; give another --costs"
            ) from error

    def _lines(
        self, kernels: Mapping[str, Resources], networks: Mapping[str, NetworkCost]
    ) -> Iterator[str]:
        if self._read == 0:
            yield _line({"context": asdict(self.context)})
        for key, resources in kernels.items():
            if key not in self.kernels:
                yield _line({"kernel": key, "resources": dict(resources)})
        for digest, cost in networks.items():
            if digest not in self.networks:
                yield _line({"network": digest, "cost": _packed(cost)})

    def _take(self, line: bytes) -> None:
        try:
            text, _, check = line.removesuffix(b"\n").rpartition(b"\t")
            if int(check, 16) != zlib.crc32(text):
                raise ValueError("its checksum is another")
            record = parse_json(text)
            if "kernel" in record:
                resources = msgspec.convert(record["resources"], dict[str, float])
                self.kernels.setdefault(record["kernel"], resources)
            elif "network" in record:
                self.networks.setdefault(record["network"], _unpacked(record["cost"]))
        except (ValueError, TypeError, KeyError):  # also those of msgspec
            self.damaged += 1


def folder_of(given: Path | None, cache: Path) -> Path:
    """Return the folder of the databases: the user's own, or one in the cache."""
    return given if given is not None else cache / "costs"


def _packed(cost: NetworkCost) -> dict[str, Any]:
    """Return a cost as JSON, with resources that layers share named once."""
    names = list(dict.fromkeys(name for layer in cost.layers for name in layer.resources))
    return {
        "target": cost.target,
        "precision": cost.precision,
        "kind": cost.kind,
        "whole": cost.whole,
        "resources": dict(cost.resources),
        "names": names,
        "layers": [
            [layer.key, layer.nodes, layer.calls, [layer.resources.get(name) for name in names]]
            for layer in cost.layers
        ],
    }


def _unpacked(document: dict[str, Any]) -> NetworkCost:
    names: Sequence[str] = document.pop("names")
    layers = [
        {
            "key": key,
            "nodes": nodes,
            "calls": calls,
            "resources": {
                name: value for name, value in zip(names, values, strict=True) if value is not None
            },
        }
        for key, nodes, calls, values in document.pop("layers")
    ]
    return msgspec.convert({**document, "layers": layers}, NetworkCost)


def _line(record: dict[str, Any]) -> str:
    text = _text(record)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
