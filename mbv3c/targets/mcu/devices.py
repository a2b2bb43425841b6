"""The table of Cortex-M cores.

Memories are those of a typical part, the chip or board named beside each, in bytes: other parts of
a series have less or more. What another chip has, `--sram` says. The instruction sets are those of Arm's technical reference manuals: floating point,
DSP (pairs of int16) and Helium (vectors of 16 bytes).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mbv3c.c_library.names import check_prefix
from mbv3c.errors import UsageError
from mbv3c.precision import INT8
from mbv3c.targets.library.target import LibraryTarget
from mbv3c.targets.wing import PREFIX, SRAM, Option, TargetTable, Wing

FAMILY = "mcu"
KIB = 1024


@dataclass(frozen=True)
class Board:
    """A board that qemu-system-arm emulates, and where its memories lie.

    Attributes:
        machine: qemu's name of the board.
        cpu: qemu's name of the core.
        code: address of the vector table and the code.
        constants: address of the constants.
        data: address of what is written.
        data_bytes: size of the memory there.
    """

    machine: str
    cpu: str
    code: int
    constants: int
    data: int
    data_bytes: int


# Addresses are those of Arm's application notes AN386, AN500, AN505 and AN547, as qemu has them.
_AN386 = Board("mps2-an386", "cortex-m4", 0x00000000, 0x21000000, 0x20000000, 4096 * KIB)
_AN500 = Board("mps2-an500", "cortex-m7", 0x00000000, 0x60000000, 0x20000000, 4096 * KIB)
_AN505 = Board("mps2-an505", "cortex-m33", 0x10000000, 0x80000000, 0x38000000, 2048 * KIB)
_AN547 = Board("mps3-an547", "cortex-m55", 0x00000000, 0x60000000, 0x21000000, 2048 * KIB)


@dataclass(frozen=True)
class McuTarget(LibraryTarget):
    """A Cortex-M core in a chip.

    Attributes:
        sram_bytes: SRAM of the chip, which holds the arena, inputs, outputs and the stack.
        flash_bytes: memory of the chip that holds code and weights.
        fpu: what computes floating point.
        dsp: whether the core multiplies pairs of int16 in one instruction.
        helium: whether it has vectors of 16 bytes.
        source: where the sizes of the memories are from.
        board: what emulates it.
    """

    sram_bytes: int
    flash_bytes: int
    fpu: str
    dsp: bool
    helium: bool
    source: str
    board: Board

    @property
    def is_emulated(self) -> bool:
        """Whether the emulator has this very core, and not only an older one."""
        return self.board.cpu == self.cpu


_V7EM = "thumbv7em-none-eabihf"
_V8M = "thumbv8m.main-none-eabihf"
_V81M = "thumbv8.1m.main-none-eabihf"

# fmt: off
MCUS: tuple[McuTarget, ...] = (
    McuTarget(FAMILY, "cortex-m4", _V7EM, "cortex-m4", "armv7e-m", 1, "Nordic nRF52840", 256 * KIB, 1024 * KIB, "FPv4-SP", True, False, "nRF52840 product specification", _AN386),
    McuTarget(FAMILY, "cortex-m7", _V7EM, "cortex-m7", "armv7e-m", 1, "ST STM32H743", 512 * KIB, 2048 * KIB, "FPv5-D16", True, False, "STM32H743 data sheet DS12110: AXI SRAM", _AN500),
    McuTarget(FAMILY, "cortex-m33", _V8M, "cortex-m33", "armv8-m.main", 1, "Nordic nRF5340", 512 * KIB, 1024 * KIB, "FPv5-SP", True, False, "nRF5340 product specification: application core", _AN505),
    McuTarget(FAMILY, "cortex-m55", _V81M, "cortex-m55", "armv8.1-m.main", 1, "Arm MPS3 with AN547", 2048 * KIB, 8192 * KIB, "FPv5-D16", True, True, "Arm application note AN547: SRAM, QSPI flash", _AN547),
    McuTarget(FAMILY, "cortex-m85", _V81M, "cortex-m85", "armv8.1-m.main", 1, "Renesas RA8M1", 896 * KIB, 2048 * KIB, "FPv5-D16", True, True, "RA8M1 data sheet: SRAM beside the TCM, code flash", _AN547),
)
# fmt: on


@dataclass(frozen=True)
class McuOptions:
    """What was asked of a C library for a microcontroller.

    Attributes:
        prefix: what its names begin with; empty for the model's name.
        sram_bytes: the SRAM that it may take; None for that of the chip in the table.
    """

    prefix: str = ""
    sram_bytes: int | None = None


def read_options(target: McuTarget, given: Mapping[str, Any]) -> McuOptions:
    """Read `--prefix`, `--sram` and `--artifact`.

    Raises:
        UsageError: a value makes no sense.
    """
    artifact, sram, prefix = (given.get(name) for name in ("artifact", "sram", "prefix"))
    if artifact not in (None, "c"):
        raise UsageError(f"unknown artifact {artifact!r}; {target.name} has one: c")
    if sram is not None and sram < 1:
        raise UsageError(f"--sram {sram} is not possible: give the KiB of SRAM, at least 1")
    own = "" if prefix is None else check_prefix(prefix)
    return McuOptions(own, None if sram is None else sram * KIB)


def _line(target: McuTarget) -> str:
    sizes = f"{target.sram_bytes // KIB:>5}{target.flash_bytes // KIB:>10}"
    units = " ".join([target.fpu, *["DSP"] * target.dsp, *["Helium"] * target.helium])
    return f"{sizes}  {units:<20}{target.board.cpu:<12}{target.example}"


def _row(target: McuTarget) -> dict[str, Any]:
    fields = asdict(target)
    board = fields.pop("board")
    names = ("triple", "cpu", "example", "sram_bytes", "flash_bytes", "fpu", "dsp", "helium")
    row = {name: fields[name] for name in (*names, "source")}
    return {**row, "emulated_as": board["cpu"], "board": board["machine"]}


WING = Wing(
    module="mbv3c.targets.mcu.backend",
    targets=MCUS,
    defaults={FAMILY: "cortex-m7"},
    precisions=(INT8,),
    table=TargetTable(
        f"{'target':<16}{'SRAM':>5}{'flash KiB':>10}  {'units':<20}{'emulated as':<12}example",
        _line,
        _row,
        "mcu_targets",
        16,
    ),
    options=(
        SRAM,
        Option("artifact", str, "c: a C library, which needs no runtime; on mcu always."),
        PREFIX,
    ),
    refusals={
        "cores": "--cores is for CPUs; {target} has one core for an inference",
        "dense_weights": "--dense-weights is for fp32 on CPUs; {target} stores all weights in "
        "int8: leave it out",
        "emit_source": "--emit-source is for GPUs; the kernels of {target} have no source",
    },
    doctor_module="mbv3c.targets.mcu.doctor",
)
