"""Hold a C library to the SRAM of a chip, and say what would fit where it does not."""

from math import floor, sqrt

from mbv3c.c_library.on_files import bytes_of
from mbv3c.c_library.run import CLibrary
from mbv3c.errors import UsageError
from mbv3c.targets.mcu.devices import KIB, McuTarget
from mbv3c.targets.mcu.firmware import STACK_BYTES, ImageSizes

_IMAGE_RANK = 4  # [N, C, H, W]
_LEAST_WIDTH = 0.25  # of the width that it has: less is another network
_STEP = 32  # pixels: resolutions of networks are multiples of the stride of their last stage


def check_sram(
    sizes: ImageSizes, library: CLibrary, arena: int, budget: int, target: McuTarget
) -> None:
    """Make sure that a program fits the SRAM.

    Args:
        sizes: what the program takes.
        library: the library.
        arena: bytes of its arena.
        budget: bytes of SRAM that it may take.
        target: the core.

    Raises:
        UsageError: it does not; the message has the numbers, and what would fit.
    """
    if sizes.sram_bytes <= budget:
        return
    inputs, outputs = (sum(map(bytes_of, side)) for side in (library.inputs, library.outputs))
    fixed = outputs + STACK_BYTES
    advice = _what_fits(library, inputs, arena, budget - fixed)
    chip = f", or --sram for a chip with more than {target.example} has"
    raise UsageError(
        f"{target.name} needs {sizes.sram_bytes:,} bytes of SRAM and may take {budget:,} "
        f"({budget // KIB} KiB): {arena:,} of arena, {inputs:,} of inputs, {outputs:,} of "
        f"outputs, {STACK_BYTES:,} of stack; {advice}{chip if budget == target.sram_bytes else ''}"
    )


def _what_fits(library: CLibrary, inputs: int, arena: int, free: int) -> str:
    """Say how much narrower or smaller the network would have to be, by proportion.

    Memory grows with the area of an image; with the width of the network, only the arena does.
    """
    shape = library.inputs[0].shape
    choices = []
    if len(shape) == _IMAGE_RANK and len(library.inputs) == 1 and free > 0:
        side = min(shape[2:])
        smaller = floor(side * sqrt(free / (inputs + arena)) / _STEP) * _STEP
        if 0 < smaller < side:
            choices.append(f"images of {smaller} pixels in the place of {side}")
    share = (free - inputs) / arena if arena else 0.0
    if _LEAST_WIDTH <= share < 1:
        choices.append(f"about {share:.2f} times its width")
    if not choices:
        return "no smaller resolution or width of this network fits"
    return f"what would fit, by proportion: {' or '.join(choices)}"
