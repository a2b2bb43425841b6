"""What can be chosen when a network is compiled for an Ethos-U, as data."""

from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.targets.npu_table import NpuTarget

OPTIMISE = ("Performance", "Size")
MEANS = ("depthwise", "pool")
_KIB = 1024
_ARENAS = tuple(kib * _KIB for kib in (128, 192, 256, 384, 512, 768, 1024))


@dataclass(frozen=True)
class Knobs:
    """One choice; None is the device's own.

    Attributes:
        optimise: vela's strategy: `Performance`, or `Size` for the least memory.
        arena_cache_size: bytes of SRAM that vela aims at.
        memory_mode: a section of vela.ini, one of the device's `memory_modes`.
        system_config: a section of vela.ini, one of the device's `system_configs`.
        mean: how a global mean is computed: as a `depthwise` convolution with ones, which rounds
            once, or as an average `pool`, which rounds twice.
    """

    optimise: str = "Performance"
    arena_cache_size: int | None = None
    memory_mode: str | None = None
    system_config: str | None = None
    mean: str = "depthwise"

    def to_json(self) -> dict[str, Any]:
        """Return the knobs by their names."""
        return asdict(self)


@dataclass(frozen=True)
class NpuOptions:
    """How to compile for an NPU.

    Attributes:
        knobs: of the lowering and of vela.
        sram_bytes: budget of SRAM; None for the device's own.
        float_io: the bundle's program takes and gives fp32: quantize and dequantize at its ends.
        compare_size: also estimate the same with `--optimise size`.
    """

    knobs: Knobs = field(default_factory=Knobs)
    sram_bytes: int | None = None
    float_io: bool = False
    compare_size: bool = False


def legal_values(target: NpuTarget) -> dict[str, tuple[Any, ...]]:
    """Return for each knob what a tuner may choose for a device.

    `system_config` says which memories there are, not how to use them: it is no choice.
    """
    return {
        "optimise": OPTIMISE,
        "arena_cache_size": (None, *_ARENAS),
        "memory_mode": (None, *target.memory_modes),
        "mean": MEANS,
    }


def every_choice(target: NpuTarget) -> list[Knobs]:
    """Return every combination of legal values, the default one first."""
    legal = legal_values(target)
    return [Knobs(**dict(zip(legal, values, strict=True))) for values in product(*legal.values())]


def check_knobs(knobs: Knobs, target: NpuTarget) -> None:
    """Make sure that a choice is one for this device.

    Raises:
        UsageError: it is not; the legal values are listed.
    """
    legal = {
        "optimise": OPTIMISE,
        "mean": MEANS,
        "memory_mode": (None, *target.memory_modes),
        "system_config": (None, *target.system_configs),
    }
    for name, known in legal.items():
        value = getattr(knobs, name)
        if value not in known:
            listed = ", ".join(one for one in known if one is not None)
            raise UsageError(f"{name} {value!r} is not for {target.name}; known: {listed}")
    if knobs.arena_cache_size is not None and knobs.arena_cache_size < 1:
        raise UsageError(f"an arena of {knobs.arena_cache_size} bytes makes no sense")
