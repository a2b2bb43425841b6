"""What can be chosen when a network is compiled for an Ethos-U, as data."""

from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.targets.ethos_u.devices import DEDICATED_SRAM, FAMILY, NpuTarget, find_npu

OPTIMISE = ("Performance", "Size")
SIZE = OPTIMISE[1]
MEANS = ("depthwise", "pool")
_KIB = 1024
ARENAS = tuple(kib * _KIB for kib in (128, 192, 256, 384, 512, 768, 1024))


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
        tune_logs: folders of tuning databases, in which a better choice is looked for.
        pinned: names of the knobs that the user gave; no other value is better than these.
    """

    knobs: Knobs = field(default_factory=Knobs)
    sram_bytes: int | None = None
    float_io: bool = False
    compare_size: bool = False
    tune_logs: tuple[Path, ...] = ()
    pinned: tuple[str, ...] = ()


def legal_values(
    target: NpuTarget, arenas: tuple[int, ...] = ARENAS
) -> dict[str, tuple[Any, ...]]:
    """Return for each knob what a tuner may choose for a device; `arenas` are in bytes.

    `system_config` says which memories there are, not how to use them: it is no choice.
    """
    return {
        "optimise": OPTIMISE,
        "arena_cache_size": (None, *arenas),
        "memory_mode": (None, *target.memory_modes),
        "mean": MEANS,
    }


def every_choice(target: NpuTarget, arenas: tuple[int, ...] = ARENAS) -> list[Knobs]:
    """Return every combination of legal values, the default one first."""
    legal = legal_values(target, arenas)
    return [Knobs(**dict(zip(legal, values, strict=True))) for values in product(*legal.values())]


def memories(knobs: Knobs, target: NpuTarget) -> str:
    """Return which memories a choice stands for; what one estimate says of another needs the same.

    Modes of dedicated SRAM differ only in its size, which is that of the arena.
    """
    mode = knobs.memory_mode or target.memory_mode
    return "Dedicated_Sram" if mode in DEDICATED_SRAM else mode


def sram_of(knobs: Knobs, target: NpuTarget) -> int | None:
    """Return the bytes of SRAM that a choice's memory mode has; None where it sets no limit."""
    return DEDICATED_SRAM.get(knobs.memory_mode or target.memory_mode)


def canonical(knobs: Knobs, target: NpuTarget) -> Knobs:
    """Return the one choice of all those that are the same to vela.

    The device's own modes are None. Of modes of dedicated SRAM only the size of the arena matters.
    In other modes vela ignores the arena when it optimises for size, as it says itself.
    """
    mode = knobs.memory_mode or target.memory_mode
    arena = knobs.arena_cache_size
    if mode in DEDICATED_SRAM:
        arena = arena or DEDICATED_SRAM[mode]
        mode = next(one for one in (target.memory_mode, *DEDICATED_SRAM) if one in DEDICATED_SRAM)
    elif knobs.optimise == SIZE:
        arena = None
    system = knobs.system_config
    return replace(
        knobs,
        arena_cache_size=arena,
        memory_mode=None if mode == target.memory_mode else mode,
        system_config=None if system == target.system_config else system,
    )


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


GIVEN = (
    "optimise",
    "sram",
    "float_io",
    "mean",
    "memory_mode",
    "system_config",
)


_PRECISION = "int8"


_KIB = 1024


@dataclass(frozen=True)
class Request:
    """Options as they were given; None is nothing given.

    Attributes:
        target: `FAMILY[:DEVICE]`.
        precision: int8, or nothing.
        cores, keep_float: nothing.
        given: the options of `GIVEN`.
    """

    target: str
    precision: str | None
    cores: int | None
    keep_float: str | None
    given: dict[str, Any]

    def check_no_npu(self) -> None:
        """Refuse options of the NPU for another target.

        Raises:
            UsageError: there are some.
        """
        given = [_option(name) for name, value in self.given.items() if value is not None]
        if given:
            raise UsageError(f"{', '.join(given)} are for --target {FAMILY} only")

    def read(self, *, compare_size: bool) -> tuple[NpuTarget, dict[str, Any]]:
        """Return the device and the fields of `npu_knobs.NpuOptions`.

        Raises:
            UsageError: something is not for an NPU, or not for this one.
        """
        target = find_npu(self.target)
        if self.precision not in (None, _PRECISION):
            raise UsageError(
                f"{target.name} computes in {_PRECISION} only; leave --precision {self.precision} "
                "out"
            )
        if self.cores is not None:
            raise UsageError(f"--cores is for CPUs; {target.name} has one core for an inference")
        if self.keep_float is not None:
            raise UsageError(f"--keep-float is for CPUs; {target.name} computes no fp32")
        names = {value.lower(): value for value in OPTIMISE}
        wanted = self.given["optimise"] or "performance"
        if wanted.lower() not in names:
            raise UsageError(f"--optimise {wanted!r} is unknown; known: {', '.join(names)}")
        chosen = {key: self.given[key] for key in ("mean", "memory_mode", "system_config")}
        knobs = Knobs(
            optimise=names[wanted.lower()],
            **{key: value for key, value in chosen.items() if value is not None},
        )
        check_knobs(knobs, target)
        sram = self.given["sram"]
        if sram is not None and sram < 1:
            raise UsageError(f"--sram {sram} makes no sense; give a number of KiB, such as 512")
        return target, {
            "knobs": knobs,
            "sram_bytes": None if sram is None else sram * _KIB,
            "float_io": bool(self.given["float_io"]),
            "compare_size": compare_size,
            "pinned": tuple(key for key in ("optimise", "mean") if self.given[key] is not None),
        }


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
