"""What cores can do at most: multiply-adds and loads in a cycle, and the memory of a board.

Rates are those of the scheduling models of LLVM 19 by which cycles are estimated, too: the
Neoverse N1's for a Cortex-A76, the Cortex-A57's for a Cortex-A72. `llvm-mca` gives them for rows
of `fmla v.4s`, `fmla v.8h`, `sdot v.16b`, `smmla v.16b`, `bfmmla v.8h`, `smlal v.4s` and `ldr q`,
and a test asks it (`tests/targets/cpu/test_peaks.py`). What an instruction does is in Arm's
architecture reference manual: 128 bits, and `ldp q` loads two registers.

Cores that are not here have no roof: LLVM's model for a Cortex-A75, whose pipes are wider, is that
of a Cortex-A57, and that for an Apple M1, which has four pipes, begins two multiply-adds in a
cycle. Cortex-A35 and A73 have LLVM's models of other cores, too.
"""

from dataclasses import dataclass

from mbv3c.target import Limits

# Multiply-adds of an instruction.
_FMLA, _HALVES, _SDOT, _SMMLA, _BFMMLA, _SMLAL = 4, 8, 16, 32, 16, 4
_LOAD, _PAIR = 16, 32  # bytes of `ldr q` and `ldp q`


@dataclass(frozen=True)
class Core:
    """How many of an instruction a core begins in a cycle.

    Attributes:
        fmla: `fmla` of four fp32.
        loads: `ldr` of 16 bytes.
        halves: `fmla` of eight fp16; 0 where the core has none.
        sdot: `sdot`; 0 where the core has none, and multiplies int8 by `smlal`.
        smlal: `smlal` of four int16.
        model: LLVM's name of the scheduling model.
        smmla: `smmla`; 0 where the core has none.
    """

    fmla: int
    loads: int
    halves: int
    sdot: int
    smlal: int
    model: str
    smmla: int = 0

    @property
    def bfmmla(self) -> int:
        """`bfmmla`, which the cores that have it begin as often as `smmla`."""
        return self.smmla


CORES = {
    "cortex-a53": Core(1, 1, 0, 0, 1, "cortex-a53"),
    "cortex-a55": Core(2, 1, 2, 1, 1, "cortex-a55"),
    "cortex-a72": Core(1, 1, 0, 0, 1, "cortex-a57"),
    "cortex-a76": Core(2, 2, 2, 2, 1, "neoverse-n1"),
    "cortex-a57": Core(1, 1, 0, 0, 1, "cortex-a57"),
    "cortex-a77": Core(2, 2, 2, 2, 1, "neoverse-n1"),
    "cortex-a78": Core(2, 2, 2, 2, 1, "neoverse-n1"),
    "cortex-x1": Core(4, 3, 4, 4, 2, "neoverse-v1"),
    "cortex-a510": Core(2, 2, 2, 2, 2, "cortex-a510", 2),
    "cortex-a520": Core(2, 2, 2, 2, 2, "cortex-a520", 2),
    "cortex-a710": Core(2, 3, 2, 2, 1, "cortex-a710", 2),
    "cortex-a715": Core(2, 3, 2, 2, 1, "cortex-a715", 2),
    "cortex-a720": Core(2, 3, 2, 2, 1, "cortex-a720", 2),
    "cortex-x3": Core(4, 3, 4, 4, 2, "neoverse-v2", 4),
    "cortex-x4": Core(4, 3, 4, 4, 2, "neoverse-v2", 4),
    "neoverse-n1": Core(2, 2, 2, 2, 1, "neoverse-n1"),
    "neoverse-v1": Core(4, 3, 4, 4, 2, "neoverse-v1", 4),
    "neoverse-n2": Core(2, 3, 2, 2, 1, "neoverse-n2", 2),
    "neoverse-v2": Core(4, 3, 4, 4, 2, "neoverse-v2", 4),
}


@dataclass(frozen=True)
class Board:
    """The clock and the memory of a board.

    Attributes:
        clock_mhz: the highest clock of its cores.
        memory_gb: GB that its memory gives in a second: transfers times the width of the bus.
        source: where these figures are from.
    """

    clock_mhz: float
    memory_gb: float
    source: str


# By the example in the table of targets. Pi: 4 bytes wide; Altra: eight channels of 8 bytes.
BOARDS = {
    "Raspberry Pi 5": Board(2400, 17.1, "Raspberry Pi 5 product brief: 2.4 GHz, LPDDR4X-4267"),
    "Raspberry Pi 4": Board(1500, 12.8, "Raspberry Pi 4 product brief: 1.5 GHz, LPDDR4-3200"),
    "Raspberry Pi 3": Board(1200, 3.6, "Raspberry Pi 3 product brief: 1.2 GHz, LPDDR2-900"),
    "Ampere Altra": Board(3000, 204.8, "Ampere Altra Q80-30 data sheet: 3.0 GHz, 8 x DDR4-3200"),
}


def limits(cpu: str, example: str, precision: str) -> Limits | None:
    """Return what a core can do at most in a precision; None where that is not known.

    Args:
        cpu: LLVM's name of the core.
        example: the board whose memory and clock it has.
        precision: a key of `mbv3c.precision.PRECISIONS`.
    """
    core = CORES.get(cpu)
    if core is None:
        return None
    # The best of those that the core has.
    integers = (core.smmla, _SMMLA), (core.sdot, _SDOT), (core.smlal, _SMLAL)
    best = {
        "fp32": (core.fmla, _FMLA),
        "fp16": (core.halves, _HALVES),
        "bf16": (core.bfmmla, _BFMMLA),
        "int8": next(each for each in integers if each[0]),
    }
    rate, madds = best[precision]
    if not rate:
        return None
    board = BOARDS.get(example)
    rates = f"rates of {cpu}: LLVM's scheduling model of {core.model}"
    return Limits(
        rate * madds,
        core.loads * _LOAD,
        madds,
        _PAIR,
        board.clock_mhz if board else 0.0,
        board.memory_gb if board else 0.0,
        example if board else "",
        f"{rates}; {board.source}" if board else rates,
    )
