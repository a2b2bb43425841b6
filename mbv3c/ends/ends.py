"""The ends that a user wants for a model, and how its metadata say so.

A model that was given other ends says so in its metadata, so that it is not given them twice:
`mbv3c.frame`, `mbv3c.outputs` and `mbv3c.labels` (docs/frames.md).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from mbv3c.door.documents import parse_json
from mbv3c.door.files import Refused
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.frames import FRAME
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, LAYOUTS, Overrides

OUTPUTS = "mbv3c.outputs"
LABELS = "mbv3c.labels"
CHANNELS = ("RGB", "BGR")


@dataclass(frozen=True)
class Frame:
    """What a camera gives: whole pixels of 8 bits.

    Attributes:
        layout: the order of the frame's numbers: NHWC or NCHW.
        channels: the order of its colours: RGB or BGR.
        preparing: how the model wants its image; what is not said is in its metadata.
    """

    layout: str = "NHWC"
    channels: str = CHANNELS[0]
    preparing: Overrides = AS_THE_MODEL_SAYS


@dataclass(frozen=True)
class Outputs:
    """What becomes of the class scores.

    Attributes:
        softmax: whether they become probabilities.
        top: the number of best classes to give instead of all scores; 0 for all scores.
    """

    softmax: bool = False
    top: int = 0

    def __str__(self) -> str:
        parts = ["softmax"] * self.softmax + [f"top{self.top}"] * bool(self.top)
        return ",".join(parts)


@dataclass(frozen=True)
class Ends:
    """The ends that a model is given; the default leaves it as it is.

    Attributes:
        frame: what it takes; None for what the model takes.
        outputs: what becomes of its class scores.
        labels: the names of the classes, which may repeat; empty without.
    """

    frame: Frame | None = None
    outputs: Outputs = Outputs()
    labels: tuple[str, ...] = ()


NO_ENDS = Ends()

_OUTPUTS = re.compile(r"(softmax)?(?:(?:^|,)top([1-9]\d{0,5}))?")


def parse_outputs(text: str) -> Outputs:
    """Read what becomes of class scores: `softmax`, `top5`, or `softmax,top5`.

    Raises:
        UsageError: it says something else.
    """
    found = _OUTPUTS.fullmatch(text)
    if not text or found is None:
        raise UsageError(
            f"--outputs {text!r} is not known; write softmax, top5 (or another number), or "
            "softmax,top5"
        )
    return Outputs(found[1] is not None, int(found[2] or 0))


def as_metadata(ends: Ends) -> dict[str, str]:
    """Return what the metadata of a model with these ends say of what was asked."""
    entries = {}
    if ends.frame is not None:
        entries[FRAME] = json.dumps(asdict(ends.frame))
    if str(ends.outputs):
        entries[OUTPUTS] = str(ends.outputs)
    if ends.labels:
        entries[LABELS] = json.dumps(ends.labels)
    return entries


def ends_of(metadata: Mapping[str, str]) -> Ends:
    """Return the ends that a model was given.

    Raises:
        ModelError: the metadata are damaged.
    """
    frame, labels = (_read(metadata, key) for key in (FRAME, LABELS))
    outputs = metadata.get(OUTPUTS)
    try:
        return Ends(
            None if frame is None else msgspec.convert(frame, Frame),
            Outputs() if outputs is None else parse_outputs(outputs),
            () if labels is None else msgspec.convert(labels, tuple[str, ...]),
        )
    except (msgspec.ValidationError, UsageError) as error:
        raise ModelError(
            f"the model's metadata {FRAME}, {OUTPUTS} or {LABELS} are damaged: {error}; remove "
            "these entries, or compile the model as it was given"
        ) from error


def _read(metadata: Mapping[str, str], key: str) -> Any:
    entry = metadata.get(key)
    if entry is None:
        return None
    try:
        return parse_json(entry)
    except Refused as error:
        raise ModelError(f"the model's metadata {key} is no JSON: {error}; remove it") from error


def check_frame(frame: Frame) -> None:
    """Refuse a layout or an order of colours that no frame has.

    Raises:
        UsageError: it is none of those known.
    """
    for option, given, known in (
        ("--input-layout", frame.layout, LAYOUTS),
        ("--channel-order", frame.channels, CHANNELS),
    ):
        if given not in known:
            listed = " or ".join(known).lower()
            raise UsageError(f"{option} {given!r} is not known; write {listed}")
