"""The options of `mbv3c compile` that say what a model takes and gives."""

from typing import TYPE_CHECKING, Any

import click

from mbv3c.commands.options import all_of, taken
from mbv3c.commands.preparing import labels_option, take_labels
from mbv3c.errors import UsageError

if TYPE_CHECKING:
    from mbv3c.ends.ends import Ends
    from mbv3c.quantization.images import Overrides

_WHOLE = "uint8"
_FRAME = ("input_type", "input_layout", "channel_order")

# `take_ends` reads them.
ends_options = all_of(
    click.option("--input-type", help="Take frames as a camera gives them: uint8."),
    click.option("--input-layout", help="Take frames as nhwc or nchw.  [default: nhwc]"),
    click.option(
        "--channel-order",
        help="Take frames in rgb or bgr; --bgr is for the model.  [default: rgb]",
    ),
    click.option(
        "--outputs",
        help="Give softmax, top5 (or another number) or softmax,top5 for class scores.",
    ),
    labels_option,
)


def asks_for_frames(given: dict[str, Any]) -> bool:
    """Say whether --input-type is there.

    Raises:
        UsageError: it is none that is known, or an option that belongs to it stands alone.
    """
    kind = given["input_type"]
    if kind is not None and kind.lower() != _WHOLE:
        raise UsageError(f"--input-type {kind!r} is not known; write {_WHOLE}, or leave it out")
    for name in _FRAME[1:]:
        if kind is None and given[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')} belongs to --input-type {_WHOLE}")
    return kind is not None


def take_ends(given: dict[str, Any], preparing: "Overrides") -> "tuple[Ends, Overrides]":
    """Take `ends_options` out of what was given.

    Args:
        given: all options.
        preparing: how images are prepared.

    Returns:
        The ends, and what is left to say of images: of frames how an image becomes one.

    Raises:
        UsageError: a value makes no sense.
    """
    from dataclasses import replace

    from mbv3c.ends.ends import Ends, Frame, Outputs, check_frame, parse_outputs
    from mbv3c.quantization.images import Overrides

    wanted = asks_for_frames(given)
    _, layout, order = taken(given, *_FRAME).values()
    outputs, labels = given.pop("outputs"), take_labels(given)
    frame = None
    if wanted:
        own = replace(preparing, resize=None, crop=None)
        preparing = Overrides(resize=preparing.resize, crop=preparing.crop)
        frame = Frame((layout or "nhwc").upper(), (order or "rgb").upper(), own)
        check_frame(frame)
    return Ends(
        frame,
        Outputs() if outputs is None else parse_outputs(outputs),
        labels,
    ), preparing
