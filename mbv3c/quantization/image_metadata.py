"""What the metadata of a model say of its images, entry by entry; each is JSON.

`mbv3c.mean`, `mbv3c.std`  three numbers, for red, green and blue
`mbv3c.shown`              share of an image's middle that becomes the input; null: all, stretched
`mbv3c.scale`              factor of the pixels, which are 0 to 255; 1/255 where it is missing
`mbv3c.channels`           "RGB" or "BGR"
`mbv3c.layout`             "NCHW" or "NHWC", of an input whose shape leaves that open
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import ModelError
from mbv3c.graphs.frames import FRAME
from mbv3c.graphs.spec import HEAD_TRAITS

MEAN, STD = "mbv3c.mean", "mbv3c.std"
SHOWN = "mbv3c.shown"
SCALE = "mbv3c.scale"
COLOURS = "mbv3c.channels"
LAYOUT = "mbv3c.layout"
# All that a model's own head does not say.
SAID = (SHOWN, SCALE, COLOURS, LAYOUT)
COLOURS_KNOWN = ("RGB", "BGR")
LAYOUTS_KNOWN = ("NCHW", "NHWC")

_CHANNELS = 3


def numbers_of(
    entries: Mapping[str, str], key: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    """Return the three numbers of an entry, or else the default.

    Raises:
        ModelError: the entry is damaged.
    """
    if key not in entries:
        return default
    try:
        values = tuple(float(value) for value in parse_json(entries[key]))
    except (ValueError, TypeError):
        values = ()
    if len(values) != _CHANNELS or not np.isfinite(values).all() or (key == STD and 0 in values):
        raise _damaged(entries, key, "not three numbers")
    return values


def shown_of(entries: Mapping[str, str], default: float | None) -> float | None:
    """Return the share of an image that is shown, or else the default.

    Raises:
        ModelError: the entry is damaged.
    """
    if SHOWN not in entries:
        return default
    share = _value(entries, SHOWN, 0)
    if share is None:
        return None
    if not _is_number(share) or not 0 < share <= 1:
        raise _damaged(entries, SHOWN, "neither a share above 0 and up to 1 nor null")
    return float(share)


def scale_of(entries: Mapping[str, str], default: float) -> float:
    """Return the factor of the pixels, or else the default.

    Raises:
        ModelError: the entry is damaged.
    """
    if SCALE not in entries:
        return default
    factor = _value(entries, SCALE, 0)
    if not _is_number(factor) or not 0 < abs(factor) < float("inf"):
        raise _damaged(entries, SCALE, "not a number other than 0")
    return float(factor)


def is_bgr(entries: Mapping[str, str]) -> bool:
    """Say whether a model's channels, or those of the frames it takes, are blue, green and red.

    Raises:
        ModelError: an entry is damaged.
    """
    if COLOURS in entries:
        return _one_of(entries, COLOURS, COLOURS_KNOWN) == "BGR"
    if FRAME not in entries:
        return False
    try:
        frame = parse_json(entries[FRAME])
    except Refused as error:
        raise ModelError(f"the model's metadata {FRAME} is no JSON: {error}; remove it") from error
    return isinstance(frame, dict) and frame.get("channels") == "BGR"


def layout_of(entries: Mapping[str, str]) -> str | None:
    """Return the layout of the input, if an entry says it.

    Raises:
        ModelError: the entry is damaged.
    """
    return _one_of(entries, LAYOUT, LAYOUTS_KNOWN) if LAYOUT in entries else None


def says_more(entries: Mapping[str, str]) -> bool:
    """Say whether entries say something else of images than those of the model's head."""
    head = HEAD_TRAITS.get(entries.get("mbv3c.head", ""), HEAD_TRAITS["classify"])
    return (
        any(key in entries for key in SAID)
        or numbers_of(entries, MEAN, head.mean) != tuple(head.mean)
        or numbers_of(entries, STD, head.std) != tuple(head.std)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(entries: Mapping[str, str], key: str, known: tuple[str, ...]) -> str:
    value = _value(entries, key, None)
    if value not in known:
        raise _damaged(entries, key, f"neither {' nor '.join(known)} in JSON")
    return str(value)


def _value(entries: Mapping[str, str], key: str, damaged: Any) -> Any:
    try:
        return parse_json(entries[key])
    except Refused:
        return damaged


def _damaged(entries: Mapping[str, str], key: str, what: str) -> ModelError:
    return ModelError(
        f"the model's metadata {key} is {entries[key]!r}, {what}; remove that entry or correct it"
    )
