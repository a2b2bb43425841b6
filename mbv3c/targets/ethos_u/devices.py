"""The table of Ethos-U devices, and what can be chosen for them.

A device is a configuration of the accelerator together with the memories and the clock around it.
Both come from the file `Arm/vela.ini` that the package ethos-u-vela 5.2.0 brings: `system_config`
and `memory_mode` are names of its sections, clocks are their `core_clock` and budgets their
`arena_cache_size`. The memories of a chip may differ; then the chip's figures count.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, ClassVar

from mbv3c.c_library.names import check_prefix
from mbv3c.errors import UsageError
from mbv3c.nearest import among
from mbv3c.precision import INT8
from mbv3c.target import Limits, Target
from mbv3c.targets.wing import PREFIX, SRAM, Option, TargetTable, Wing

FAMILY = "npu"


@dataclass(frozen=True)
class NpuTarget(Target):
    """One Ethos-U device; `device` is the name of the accelerator's configuration.

    Attributes:
        macs: multiply-accumulates of 8 bits per cycle.
        system_config: the section of vela.ini with clock, memories and their latencies.
        memory_mode: the section of vela.ini that says what lies in which memory.
        clock_mhz: clock of the accelerator in that system.
        sram_bytes: SRAM that the memory mode leaves to the accelerator; None if it sets no limit.
        memory_modes: every mode that vela accepts for the accelerator.
        system_configs: every system of vela.ini with this accelerator.
        interpreted: whether its command streams can be interpreted here.
        interpolates: whether it resizes bilinearly; vela has TOSA's RESIZE for Ethos-U85 only.
        vela_config: the text of the chip's own vela.ini; None for the one that vela brings.
    """

    macs: int
    system_config: str
    memory_mode: str
    clock_mhz: int
    sram_bytes: int | None
    memory_modes: tuple[str, ...]
    system_configs: tuple[str, ...]
    interpreted: bool
    interpolates: bool
    vela_config: str | None = None
    computes_fp32: ClassVar[bool] = False

    def limits(self, precision: str) -> Limits | None:
        source = f"{self.macs} MACs by its name, {self.clock_mhz} MHz by {self.system_config}"
        return Limits(self.macs, clock_mhz=self.clock_mhz, source=f"{source} of vela.ini")


_SHARED = ("Shared_Sram", "Sram_Only")
_DEDICATED = (
    "Dedicated_Sram_256KB",
    "Dedicated_Sram_384KB",
    "Dedicated_Sram_512KB",
    "Shared_Sram",
    "Sram_Only",
)
_U55 = ("Ethos_U55_Deep_Embedded", "Ethos_U55_High_End_Embedded")
_U65 = ("Ethos_U65_Embedded", "Ethos_U65_Mid_End", "Ethos_U65_High_End", "Ethos_U65_Client_Server")
_U85 = (
    "Ethos_U85_SYS_Flash_Low",
    "Ethos_U85_SYS_Flash_High",
    "Ethos_U85_SYS_DRAM_Low",
    "Ethos_U85_SYS_DRAM_Mid",
    "Ethos_U85_SYS_DRAM_High",
)
_KIB = 1024

# Memory modes that differ only in the size of a SRAM which is the accelerator's alone.
DEDICATED_SRAM = {
    "Dedicated_Sram_256KB": 256 * _KIB,
    "Dedicated_Sram_384KB": 384 * _KIB,
    "Dedicated_Sram_512KB": 512 * _KIB,
}

# fmt: off
NPU_TARGETS: tuple[NpuTarget, ...] = (
    NpuTarget(FAMILY, "ethos-u55-32", 32, "Ethos_U55_Deep_Embedded", "Shared_Sram", 200, None, _SHARED, _U55, True, False),
    NpuTarget(FAMILY, "ethos-u55-64", 64, "Ethos_U55_Deep_Embedded", "Shared_Sram", 200, None, _SHARED, _U55, True, False),
    NpuTarget(FAMILY, "ethos-u55-128", 128, "Ethos_U55_High_End_Embedded", "Shared_Sram", 500, None, _SHARED, _U55, True, False),
    NpuTarget(FAMILY, "ethos-u55-256", 256, "Ethos_U55_High_End_Embedded", "Shared_Sram", 500, None, _SHARED, _U55, True, False),
    NpuTarget(FAMILY, "ethos-u65-256", 256, "Ethos_U65_Mid_End", "Dedicated_Sram_256KB", 500, 256 * _KIB, _DEDICATED, _U65, True, False),
    NpuTarget(FAMILY, "ethos-u65-512", 512, "Ethos_U65_High_End", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U65, False, False),
    NpuTarget(FAMILY, "ethos-u85-128", 128, "Ethos_U85_SYS_DRAM_Low", "Dedicated_Sram_256KB", 500, 256 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget(FAMILY, "ethos-u85-256", 256, "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget(FAMILY, "ethos-u85-512", 512, "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget(FAMILY, "ethos-u85-1024", 1024, "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB", 1000, 512 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget(FAMILY, "ethos-u85-2048", 2048, "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB", 1000, 512 * _KIB, _DEDICATED, _U85, False, True),
)
# fmt: on


def _line(target: NpuTarget) -> str:
    sram = f"{target.sram_bytes // _KIB} KiB" if target.sram_bytes else "shared"
    where = "interpreter" if target.interpreted else "TOSA's model"
    return f"{target.macs:>5}{target.clock_mhz:>6}  {sram:<8}{where:<13}{target.system_config}"


def _row(target: NpuTarget) -> dict[str, Any]:
    own = asdict(target)
    return {name: value for name, value in own.items() if name not in ("family", "vela_config")}


WING = Wing(
    module="mbv3c.targets.one_chip.backend",
    targets=NPU_TARGETS,
    defaults={FAMILY: "ethos-u55-128"},
    precisions=(INT8,),
    table=TargetTable(
        f"{'target':<19}{'MACs':>5}{'MHz':>6}  {'SRAM':<8}{'verified by':<13}system",
        _line,
        _row,
        "npu_targets",
        19,
    ),
    options=(
        Option("optimise", str, "For npu, optimise performance or size.  [default: performance]"),
        SRAM,
        Option("float_io", bool, "For npu, take and give fp32."),
        Option("mean", str, "for npu, compute means as depthwise or pool.  [default: depthwise]"),
        Option(
            "memory_mode", str, "For npu, take this section of vela.ini.  [default: the device's]"
        ),
        Option(
            "system_config",
            str,
            "For npu, take this section of vela.ini.  [default: the device's]",
        ),
        Option("vela_config", str, "For npu, read the chip's own vela.ini.  [default: vela's]"),
        PREFIX,
        Option("artifact", str, "npu: c, one C library of the NPU and a CPU beside it."),
        Option(
            "host",
            str,
            "For npu with --artifact c, name the CPU beside the NPU.  [default: cortex-m55]",
        ),
    ),
    refusals={
        "cores": "--cores is for CPUs; {target} has one core for an inference",
        "dense_weights": "--dense-weights is for fp32 on CPUs; {target} stores all weights in "
        "int8: leave it out",
        "keep_float": "--keep-float is for CPUs; {target} computes no fp32",
    },
    doctor_module="mbv3c.targets.ethos_u.doctor",
)


OPTIMISE = ("Performance", "Size")
SIZE = OPTIMISE[1]
MEANS = ("depthwise", "pool")
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
        knobs: knobs of the lowering and of vela.
        sram_bytes: budget of SRAM; None for the device's own.
        float_io: whether the bundle's program takes and gives fp32, converted at its ends.
        prefix: what the names in C begin with; empty for `mbv3c_model`.
        compare_size: whether to estimate the network with `--optimise size`, too.
        pinned: names of the knobs that the user gave; no other value is better than these.
        artifact: `c` for one C library of the NPU and a CPU; empty without.
        host: that CPU; empty for the usual one.
    """

    knobs: Knobs = field(default_factory=Knobs)
    sram_bytes: int | None = None
    float_io: bool = False
    prefix: str = ""
    compare_size: bool = False
    pinned: tuple[str, ...] = ()
    artifact: str = ""
    host: str = ""


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
    """Return the memories of a choice; estimates can be compared only for equal memories.

    Modes of dedicated SRAM differ only in its size, which is that of the arena.
    """
    mode = knobs.memory_mode or target.memory_mode
    return "Dedicated_Sram" if mode in DEDICATED_SRAM else mode


def sram_of(knobs: Knobs, target: NpuTarget) -> int | None:
    """Return the bytes of SRAM that a choice's memory mode has; None where it sets no limit."""
    return DEDICATED_SRAM.get(knobs.memory_mode or target.memory_mode)


def canonical(knobs: Knobs, target: NpuTarget) -> Knobs:
    """Return the one choice that stands for all those that are equal for vela.

    The device's own modes are None. Of modes of dedicated SRAM only the size of the arena matters.
    In other modes vela ignores the arena when it optimises for size, as it says itself.
    """
    mode = knobs.memory_mode or target.memory_mode
    arena = knobs.arena_cache_size
    if mode in DEDICATED_SRAM:
        arena = arena or DEDICATED_SRAM[mode]
        mode = next(
            name for name in (target.memory_mode, *DEDICATED_SRAM) if name in DEDICATED_SRAM
        )
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
            near = among(str(value), [choice for choice in known if choice is not None])
            raise UsageError(f"{name} {value!r} is not for {target.name}{near}")
    if knobs.arena_cache_size is not None and knobs.arena_cache_size < 1:
        raise UsageError(f"an arena of {knobs.arena_cache_size} bytes makes no sense")


def read_options(target: NpuTarget, given: Mapping[str, Any], *, explain: bool) -> NpuOptions:
    """Turn the options that a user gave into values.

    Raises:
        UsageError: a value makes no sense, or is not for this device.
    """
    names = {value.lower(): value for value in OPTIMISE}
    wanted = given.get("optimise", "performance")
    if wanted.lower() not in names:
        raise UsageError(f"unknown --optimise {wanted!r}{among(wanted, names)}")
    chosen = {key: given[key] for key in ("mean", "memory_mode", "system_config") if key in given}
    knobs = Knobs(optimise=names[wanted.lower()], **chosen)
    check_knobs(knobs, target)
    sram = given.get("sram")
    if sram is not None and sram < 1:
        raise UsageError(f"--sram {sram} makes no sense; give a number of KiB, such as 512")
    artifact, host = given.get("artifact", ""), given.get("host", "")
    if artifact not in ("", "c"):
        raise UsageError(f"unknown artifact {artifact!r}; {target.name} has one: c")
    if host and not artifact:
        raise UsageError(f"--host {host} is the CPU of a C library: give --artifact c, too")
    if artifact and given.get("float_io"):
        raise UsageError(
            "--artifact c takes and gives what the model does, and converts it: leave --float-io "
            "out"
        )
    return NpuOptions(
        knobs,
        None if sram is None else sram * _KIB,
        bool(given.get("float_io")),
        check_prefix(given["prefix"]) if "prefix" in given else "",
        explain,
        tuple(name for name in ("optimise", "mean") if name in given),
        artifact,
        host,
    )
