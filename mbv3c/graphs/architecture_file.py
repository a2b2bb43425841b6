"""Architectures as JSON files, for networks of one's own: read, checked field by field, written.

    {
      "stem": 16,
      "blocks": [
        {"kernel": 3, "expand": 16, "out": 16, "squeeze": 8, "activation": "relu", "stride": 2},
        ...
      ],
      "last_conv": 576,
      "hidden": 1024
    }

The fields are those of `mbv3c.graphs.architecture.Block` and `Architecture`; those with defaults
there may be left out.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_args

from mbv3c.door.documents import read_json
from mbv3c.door.files import Refused
from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Activation, Architecture, Block, GateFunction
from mbv3c.nearest import among

_MOST_CHANNELS, _MOST_BLOCKS = 8192, 100
_MOST_WEIGHTS = (1 << 31) // 4  # protobuf ends at 2 GiB, of fp32
_STEM_WEIGHTS = 3 * 3 * 3  # for each channel
_LARGEST_FILE = 1 << 20
_CHANNELS = range(1, _MOST_CHANNELS + 1)
_OPTIONAL = range(_MOST_CHANNELS + 1)

# What each field may be.
_BLOCK: dict[str, tuple[object, ...] | range] = {
    "kernel": (1, 3, 5, 7, 9),
    "expand": _CHANNELS,
    "out": _CHANNELS,
    "squeeze": _OPTIONAL,
    "activation": get_args(Activation),
    "stride": (1, 2),
    "dilation": (1, 2, 4),
}
_NETWORK: dict[str, tuple[object, ...] | range] = {
    "stem": _CHANNELS,
    "last_conv": _OPTIONAL,
    "hidden": _OPTIONAL,
    "activation": get_args(Activation),
    "gate": get_args(GateFunction),
}


def read_architecture_file(path: Path) -> Architecture:
    """Read a network's layers.

    Raises:
        UsageError: there is no such file, it is no JSON, or a field is missing, unknown or has a
            value that no network may have; the field and its block are named.
    """
    try:
        document = read_json(path, _LARGEST_FILE)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except Refused as error:
        raise UsageError(f"{path} is no architecture: {error}") from error
    try:
        return _network(document)
    except _WrongFieldError as error:
        raise UsageError(f"{path} is no architecture: {error}") from error


def architecture_text(network: Architecture) -> str:
    """Return what `read_architecture_file` reads, a line for each block."""
    described = asdict(network)
    rows = ",\n".join(f"    {json.dumps(block)}" for block in described.pop("blocks"))
    described["blocks"] = "BLOCKS"
    return json.dumps(described, indent=2).replace('"BLOCKS"', f"[\n{rows}\n  ]") + "\n"


class _WrongFieldError(Exception):
    """A field that no architecture has; the message names it."""


def _network(document: Any) -> Architecture:
    if not isinstance(document, Mapping):
        raise _WrongFieldError('it must be an object, such as {"stem": 16, "blocks": [...], ...}')
    blocks = document.get("blocks")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= _MOST_BLOCKS:
        raise _WrongFieldError(f"'blocks' must be a list of 1 to {_MOST_BLOCKS} blocks")
    read = tuple(
        Block(**_checked(block, Block, _BLOCK, f"block {number}"))
        for number, block in enumerate(blocks, 1)
    )
    rest = {name: value for name, value in document.items() if name != "blocks"}
    network = Architecture(blocks=read, **_checked(rest, Architecture, _NETWORK, "the network"))
    if network.hidden and not network.last_conv:
        raise _WrongFieldError("'hidden' needs a 'last_conv' before it")
    weights = _weights(network)
    if weights > _MOST_WEIGHTS:
        raise _WrongFieldError(
            f"its layers have {weights:,} weights, and an ONNX file holds {_MOST_WEIGHTS:,}; give "
            "it fewer blocks or channels"
        )
    return network


def _weights(network: Architecture) -> int:
    """Count the weights of all convolutions, and of the hidden layer."""
    total, channels = _STEM_WEIGHTS * network.stem, network.stem
    for block in network.blocks:
        expansion = channels * block.expand if block.expand != channels else 0
        inside = block.kernel**2 + 2 * block.squeeze + block.out
        total += expansion + block.expand * inside
        channels = block.out
    return total + network.last_conv * (channels + network.hidden)


def _checked(
    document: Any, kind: type, allowed: Mapping[str, tuple[object, ...] | range], where: str
) -> dict[str, Any]:
    """Return the fields of a block or network, each with a value that is allowed."""
    if not isinstance(document, Mapping):
        raise _WrongFieldError(f"{where} must be an object")
    if unknown := sorted(set(document) - set(allowed)):
        near = among(unknown[0], allowed)
        raise _WrongFieldError(f"{where} has the unknown field {unknown[0]!r}{near}")
    for field in fields(kind):
        if field.name in allowed and field.name not in document and field.default is MISSING:
            raise _WrongFieldError(f"{where} lacks {field.name!r}")
    for name, value in document.items():
        values = allowed[name]
        whole = type(value) is type(values[0])  # True is 1, and 3.0 is 3, but no channel count
        if not whole or value not in values:
            choices = (
                f"{values[0]} to {values[-1]}"
                if isinstance(values, range)
                else " or ".join(map(str, values))
            )
            raise _WrongFieldError(f"{name!r} of {where} is {value!r}; it must be {choices}")
    return dict(document)
