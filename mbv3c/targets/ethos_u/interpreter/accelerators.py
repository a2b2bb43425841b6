"""The accelerators whose command streams can be interpreted, as data.

Source: `accelerator_configs` and `max_outstanding_dma` in vela's
`ethosu/vela/architecture_features.py`, and the fields of the CONFIG register (`config_r` in
`ethosu/vela/ethos_u55_regs/ethos_u55_regs.py`).
"""

from dataclasses import dataclass

from mbv3c.targets.ethos_u.interpreter.errors import UnsupportedError

U55 = 0
U65 = 1


@dataclass(frozen=True)
class Accelerator:
    """An accelerator, as far as the meaning of a command stream depends on it.

    Attributes:
        name: name in vela's `--accelerator-config`.
        product: value of the field `product` of CONFIG.
        macs: multiply-accumulates per cycle, of all cores.
        ofm_ublock_depth, ifm_ublock_depth: output and input channels of a step of the multipliers,
            by which weights are ordered.
        shram_bytes: size of the internal memory; its last 2 KiB hold the lookup tables.
        copies: number of copies that can be under way at a time.
        lut_is_shared: whether the accumulators of an operation without a table may overwrite the
            tables.
    """

    name: str
    product: int
    macs: int
    ofm_ublock_depth: int
    ifm_ublock_depth: int
    shram_bytes: int
    copies: int
    lut_is_shared: bool


ACCELERATORS = (
    Accelerator("ethos-u55-32", U55, 32, 4, 8, 16 << 10, 1, lut_is_shared=True),
    Accelerator("ethos-u55-64", U55, 64, 8, 8, 16 << 10, 1, lut_is_shared=True),
    Accelerator("ethos-u55-128", U55, 128, 8, 8, 24 << 10, 1, lut_is_shared=False),
    Accelerator("ethos-u55-256", U55, 256, 8, 8, 48 << 10, 1, lut_is_shared=False),
    Accelerator("ethos-u65-256", U65, 256, 8, 8, 48 << 10, 2, lut_is_shared=False),
)


def accelerator_of(config: int) -> Accelerator:
    """Return the accelerator for which a stream was made, by its word of the CONFIG register.

    Raises:
        UnsupportedError: it is unknown, such as Ethos-U65-512 (two cores) or Ethos-U85.
    """
    product, macs, shram = config >> 28, 1 << (config & 0xF), (config >> 8 & 0xFF) << 10
    configured = (product, macs, shram)
    for accelerator in ACCELERATORS:
        if (accelerator.product, accelerator.macs, accelerator.shram_bytes) == configured:
            return accelerator
    known = ", ".join(accelerator.name for accelerator in ACCELERATORS)
    family = {U55: "Ethos-U55", U65: "Ethos-U65", 2: "Ethos-U85"}.get(product, "unknown product")
    raise UnsupportedError(
        f"the stream is for {family} with {macs} MACs and {shram >> 10} KiB of internal memory;"
        f" known: {known}"
    )
