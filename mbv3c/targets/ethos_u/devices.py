"""The table of Ethos-U devices.

A device is a configuration of the accelerator together with the memories and the clock around it.
Both come from the file `Arm/vela.ini` that the package ethos-u-vela 5.2.0 brings: `system_config`
and `memory_mode` are names of its sections, clocks are their `core_clock` and budgets their
`arena_cache_size`. A chip has its own; then its own figures count, not these.
"""

from dataclasses import dataclass

from mbv3c.errors import UsageError

FAMILY = "npu"


@dataclass(frozen=True)
class NpuTarget:
    """One Ethos-U device.

    Attributes:
        device: what the user writes after `npu:`; the name of the accelerator's configuration.
        macs: multiply-accumulates of 8 bits per cycle.
        system_config: the section of vela.ini with clock, memories and their latencies.
        memory_mode: the section of vela.ini that says what lies in which memory.
        clock_mhz: of the accelerator in that system.
        sram_bytes: what that memory mode leaves to the accelerator; None where it sets no limit.
        memory_modes: every mode that vela accepts for the accelerator.
        system_configs: every system of vela.ini with this accelerator.
        interpreted: whether its command streams can be interpreted here.
        interpolates: whether it resizes bilinearly; vela has TOSA's RESIZE for Ethos-U85 only.
    """

    device: str
    macs: int
    system_config: str
    memory_mode: str
    clock_mhz: int
    sram_bytes: int | None
    memory_modes: tuple[str, ...]
    system_configs: tuple[str, ...]
    interpreted: bool
    interpolates: bool

    @property
    def name(self) -> str:
        return f"{FAMILY}:{self.device}"


_SHARED = ("Shared_Sram", "Sram_Only")
_DEDICATED = (
    "Dedicated_Sram_256KB",
    "Dedicated_Sram_384KB",
    "Dedicated_Sram_512KB",
    "Shared_Sram",
    "Sram_Only",
)
_U55 = ("Ethos_U55_Deep_Embedded", "Ethos_U55_High_End_Embedded")
_U65 = (
    "Ethos_U65_Embedded",
    "Ethos_U65_Mid_End",
    "Ethos_U65_High_End",
    "Ethos_U65_Client_Server",
)
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
    NpuTarget("ethos-u55-32", 32, "Ethos_U55_Deep_Embedded", "Shared_Sram", 200, None, _SHARED, _U55, True, False),
    NpuTarget("ethos-u55-64", 64, "Ethos_U55_Deep_Embedded", "Shared_Sram", 200, None, _SHARED, _U55, True, False),
    NpuTarget("ethos-u55-128", 128, "Ethos_U55_High_End_Embedded", "Shared_Sram", 500, None, _SHARED, _U55, True, False),
    NpuTarget("ethos-u55-256", 256, "Ethos_U55_High_End_Embedded", "Shared_Sram", 500, None, _SHARED, _U55, True, False),
    NpuTarget("ethos-u65-256", 256, "Ethos_U65_Mid_End", "Dedicated_Sram_256KB", 500, 256 * _KIB, _DEDICATED, _U65, True, False),
    NpuTarget("ethos-u65-512", 512, "Ethos_U65_High_End", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U65, False, False),
    NpuTarget("ethos-u85-128", 128, "Ethos_U85_SYS_DRAM_Low", "Dedicated_Sram_256KB", 500, 256 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget("ethos-u85-256", 256, "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget("ethos-u85-512", 512, "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB", 1000, 384 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget("ethos-u85-1024", 1024, "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB", 1000, 512 * _KIB, _DEDICATED, _U85, False, True),
    NpuTarget("ethos-u85-2048", 2048, "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB", 1000, 512 * _KIB, _DEDICATED, _U85, False, True),
)
# fmt: on

DEFAULT_NPU = "ethos-u55-128"


def is_npu(name: str) -> bool:
    """Say whether `FAMILY[:DEVICE]` names this family."""
    return name.partition(":")[0] == FAMILY


def find_npu(name: str) -> NpuTarget:
    """Look `npu[:DEVICE]` up.

    Raises:
        UsageError: there is no such device; the known ones are listed.
    """
    wanted = name.partition(":")[2] or DEFAULT_NPU
    for target in NPU_TARGETS:
        if target.device == wanted:
            return target
    known = ", ".join(target.device for target in NPU_TARGETS)
    raise UsageError(f"unknown device {wanted!r} of {FAMILY}; known: {known}")
