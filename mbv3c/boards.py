"""The table of boards, phones and servers: what is in them, and what compiles for it.

A board has parts that compute: its processor, its small cores, its GPU, its NPU. Each names the
targets that compile for it, the best first; the first one that is in the tables of targets is
taken. So a core that gets a target of its own is used from then on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

CPU, GPU, NPU = "cpu", "gpu", "npu"

# What stands in for a core without a target of its own: cores whose instructions it all has, the
# most alike first.
_STAND_INS = {
    "cortex-a510": ("cortex-a55",),
    "cortex-a520": ("cortex-a510", "cortex-a55"),
    "cortex-a715": ("cortex-a710", "cortex-a78", "cortex-a76"),
    "cortex-a720": ("cortex-a715", "cortex-a710", "cortex-a78", "cortex-a76"),
    "cortex-a78ae": ("cortex-a78", "cortex-a76"),
    "cortex-x3": ("cortex-x1", "cortex-a78", "cortex-a76"),
    "cortex-x4": ("cortex-x3", "cortex-x1", "cortex-a78", "cortex-a76"),
    "neoverse-v1": ("neoverse-n1",),
    "apple-m2": ("apple-m1", "cortex-a76"),
}
_ANDROID = "-android"


@dataclass(frozen=True)
class Part:
    """A part of a board that computes networks.

    Attributes:
        name: what stands behind the board's name and a colon.
        what: what it is.
        targets: the targets that compile for it, the best first.
        source: where the figures are from.
        core: LLVM's name of the core; empty for what is no processor.
        cores: the number of such cores; 0 where nobody says.
        mhz: the highest clock that the source names; 0 where it names none.
        note: what a user must know of it, in a few words.
    """

    name: str
    what: str
    targets: tuple[str, ...]
    source: str
    core: str = ""
    cores: int = 0
    mhz: int = 0
    note: str = ""


@dataclass(frozen=True)
class Board:
    """A board, a phone, or a server.

    Attributes:
        name: how it is called on the command line.
        product: what it is called in shops.
        chip: its system on a chip.
        parts: the parts that compute, the one that the board's name alone stands for first.
        memory_kib: sizes of memory with which it is sold, in KiB.
        source: where the sizes of memory are from.
        models: what Linux says in `/sys/firmware/devicetree/base/model`, or how that begins.
        unserved: what else is in it that computes, and has no target.
    """

    name: str
    product: str
    chip: str
    parts: tuple[Part, ...]
    memory_kib: tuple[int, ...]
    source: str
    models: tuple[str, ...] = ()
    unserved: str = ""

    def part(self, name: str) -> Part | None:
        """Return a part by its name; without one the first."""
        return next((each for each in self.parts if name in ("", each.name)), None)

    def spelled(self, part: Part) -> str:
        """Return how a part is written on the command line."""
        return self.name if part is self.parts[0] else f"{self.name}:{part.name}"

    @property
    def kinds(self) -> set[str]:
        """The kinds of cores on which Linux runs."""
        return {part.core for part in self.parts if part.core}

    @property
    def cores(self) -> int:
        """How many cores Linux sees."""
        return sum(part.cores for part in self.parts)


def _cores(
    core: str, cores: int, mhz: int, source: str, name: str = CPU, *, android: bool = False
) -> Part:
    end = _ANDROID if android else ""
    targets = tuple(f"arm_cpu:{each}{end}" for each in (core, *_STAND_INS.get(core, ())))
    what = core.title().replace("78Ae", "78AE")
    return Part(name, what, targets, source, core, cores, mhz)


def _gpu(what: str, target: str, source: str, mhz: int = 0, note: str = "") -> Part:
    return Part(GPU, what, (f"mobile_gpu:{target}",), source, mhz=mhz, note=note)


def _npu(what: str, target: str, mhz: int, source: str, name: str = NPU, note: str = "") -> Part:
    return Part(name, what, (f"npu:{target}",), source, mhz=mhz, note=note)


def _gib(*sizes: int) -> tuple[int, ...]:
    return tuple(size << 20 for size in sizes)


_PI = "Raspberry Pi documentation, Processors"
_IMX6 = "NXP data sheet IMX6DQAEC"
_IMX7 = "NXP data sheet IMX7DCEC"
_K1 = "SpacemiT K1 data sheet"
_PI_BRIEF = "Raspberry Pi product brief"
_RK3588 = "Rockchip RK3588 brief data sheet"
_RK3568 = "Rockchip RK3568 brief data sheet"
_IMX8 = "NXP data sheet IMX8MPCEC, consumer parts"
_IMX93 = "NXP data sheet IMX93CEC, and reference manual"
_ALIF = "Alif Ensemble E7 data sheet, and SDK note on the Ethos-U55"
_CORSTONE = "Arm application note AN547"
_G3 = "Device Info HW on a Pixel 8 Pro, as Android Authority showed it in October 2023"
_GEN3 = "Qualcomm: Snapdragon 8 Gen 3 product brief"
_AWS = "AWS: Graviton technical guide"
_APPLE = "Apple: M2, newsroom of June 2022"
_U65_CLOCK = "vela's estimate is for 500 MHz, and the chip has 1000: cycles hold, times do not"
_HP_CLOCK = "vela's estimate is for 500 MHz, and the chip has 400: cycles hold, times do not"
_HE_CLOCK = "vela's estimate is for 500 MHz, and the chip has 160: cycles hold, times do not"
_LINUX_ON_IT = "under Linux on it"

_RK3588_PARTS = (
    _cores("cortex-a76", 4, 2400, _RK3588),
    _cores("cortex-a55", 4, 1800, _RK3588, "little"),
    _gpu("Mali-G610 MC4", "mali", _RK3588, 1000),
)

# fmt: off
BOARDS: tuple[Board, ...] = (
    Board(
        "rpi5", "Raspberry Pi 5", "BCM2712", (_cores("cortex-a76", 4, 2400, _PI),),
        _gib(2, 4, 8, 16), _PI_BRIEF, ("Raspberry Pi 5", "Raspberry Pi Compute Module 5"), "VideoCore VII",
    ),
    Board(
        "rpi4", "Raspberry Pi 4 B", "BCM2711", (_cores("cortex-a72", 4, 1800, _PI),),
        _gib(1, 2, 4, 8), _PI_BRIEF, ("Raspberry Pi 4", "Raspberry Pi Compute Module 4"), "VideoCore VI",
    ),
    Board(
        "rpi3", "Raspberry Pi 3 B+", "BCM2837B0", (_cores("cortex-a53", 4, 1400, _PI),),
        _gib(1), _PI_BRIEF, ("Raspberry Pi 3", "Raspberry Pi Compute Module 3"), "VideoCore IV",
    ),
    Board(
        "rpi2", "Raspberry Pi 2 B", "BCM2836", (_cores("cortex-a7", 4, 900, _PI),),
        _gib(1), _PI_BRIEF, ("Raspberry Pi 2 Model B Rev 1.1", "Raspberry Pi 2 Model B Rev 1.0"), "VideoCore IV",
    ),
    Board(
        "rpi-zero2", "Raspberry Pi Zero 2 W", "RP3A0", (_cores("cortex-a53", 4, 1000, _PI),),
        (512 << 10,), _PI_BRIEF, ("Raspberry Pi Zero 2",), "VideoCore IV",
    ),
    Board(
        "rock5b", "Radxa ROCK 5B", "RK3588", _RK3588_PARTS,
        _gib(4, 8, 16, 32), "Radxa ROCK 5B product brief", ("Radxa ROCK 5B", "Radxa ROCK 5 Model B"), "RKNN NPU",
    ),
    Board(
        "orangepi5", "Orange Pi 5", "RK3588S", _RK3588_PARTS,
        _gib(4, 8, 16, 32), "Orange Pi 5 user manual", ("Orange Pi 5", "Xunlong Orange Pi 5"), "RKNN NPU",
    ),
    Board(
        "rock3a", "Radxa ROCK 3A", "RK3568",
        (_cores("cortex-a55", 4, 2000, _RK3568), _gpu("Mali-G52 MC2", "mali-bifrost", _RK3568, 800)),
        _gib(2, 4, 8), "Radxa ROCK 3A product brief", ("Radxa ROCK 3A", "Radxa ROCK3 Model A"), "RKNN NPU",
    ),
    Board(
        "jetson-orin-nano", "NVIDIA Jetson Orin Nano", "Orin",
        (_cores("cortex-a78ae", 6, 1500, "NVIDIA: Jetson Orin Nano series data sheet DS-11105"),),
        _gib(4, 8), "NVIDIA: Jetson Orin Nano series data sheet DS-11105", ("NVIDIA Jetson Orin Nano",), "Ampere GPU",
    ),
    Board(
        "imx8mp", "NXP i.MX 8M Plus EVK", "i.MX 8M Plus", (_cores("cortex-a53", 4, 1800, _IMX8),),
        _gib(6), "NXP: i.MX 8M Plus EVK fact sheet", ("NXP i.MX8MPlus",), "VIP8000 NPU, GC7000UL GPU",
    ),
    Board(
        "imx6", "NXP i.MX 6Quad SABRE", "i.MX 6Quad", (_cores("cortex-a9", 4, 1000, _IMX6),),
        _gib(1), "NXP: SABRE board for smart devices, fact sheet", ("Freescale i.MX6 Quad SABRE Smart Device",), "GC2000 GPU",
    ),
    Board(
        "imx7", "NXP i.MX 7Dual SABRE", "i.MX 7Dual", (_cores("cortex-a7", 2, 1000, _IMX7),),
        _gib(1), "NXP: i.MX 7Dual SABRE board, fact sheet", ("Freescale i.MX7 SabreSD",), "Cortex-M4",
    ),
    Board(
        "imx93", "NXP i.MX 93 EVK", "i.MX 93",
        (
            _cores("cortex-a55", 2, 1700, _IMX93),
            _npu("Ethos-U65, 256 MACs", "ethos-u65-256", 1000, _IMX93, note=_U65_CLOCK),
        ),
        _gib(2), "NXP: i.MX 93 EVK fact sheet", ("NXP i.MX93",), "Cortex-M33",
    ),
    Board(
        "alif-e7", "Alif Ensemble E7 DevKit", "AE722F80F55D5",
        (
            _npu("Ethos-U55, 256 MACs", "ethos-u55-256", 400, _ALIF, note=_HP_CLOCK),
            _npu("Ethos-U55, 128 MACs", "ethos-u55-128", 160, _ALIF, "npu-he", _HE_CLOCK),
            Part(CPU, "Cortex-M55 beside it", ("mcu:cortex-m55",), _ALIF, mhz=400),
        ),
        (13824,), "Alif Ensemble E7 data sheet: 13.5 MB of SRAM, beside 5.5 MB of MRAM", (), "Cortex-A32",
    ),
    Board(
        "corstone-300", "Arm Corstone-300 (MPS3)", "SSE-300",
        (
            _npu("Ethos-U55, 128 MACs", "ethos-u55-128", 0, _CORSTONE, note="other sizes can be chosen: npu:ethos-u55-256"),
            Part(CPU, "Cortex-M55", ("mcu:cortex-m55",), _CORSTONE, mhz=25),
        ),
        (2048,), "Arm application note AN547: SRAM",
    ),
    Board(
        "bpi-f3", "Banana Pi BPI-F3", "SpacemiT K1",
        (Part(CPU, "SpacemiT X60", ("riscv_cpu:spacemit-k1",), _K1, "spacemit-x60", 8, 1600),),
        _gib(2, 4, 8, 16), "Banana Pi documentation, BPI-F3", (), "BXE-2-32 GPU",
    ),
    Board(
        "pixel8", "Google Pixel 8", "Tensor G3",
        (
            _cores("cortex-a715", 4, 2370, _G3, android=True),
            _cores("cortex-x3", 1, 2910, _G3, "big", android=True),
            _cores("cortex-a510", 4, 1700, _G3, "little", android=True),
            _gpu("Mali-G715", "mali-android", _G3),
        ),
        _gib(8), "Google: Pixel 8 technical specifications", (), "Edge TPU",
    ),
    Board(
        "galaxy-s24", "Samsung Galaxy S24, US", "Snapdragon 8 Gen 3",
        (
            _cores("cortex-a720", 5, 3200, _GEN3, android=True),
            _cores("cortex-x4", 1, 3300, _GEN3, "big", android=True),
            _cores("cortex-a520", 2, 2300, _GEN3, "little", android=True),
            _gpu("Adreno 750", "adreno-android", _GEN3, note="elsewhere the phone has an Exynos 2400"),
        ),
        _gib(8), "Samsung: Galaxy S24 specifications", (), "Hexagon NPU",
    ),
    Board(
        "graviton2", "AWS Graviton2", "Graviton2", (_cores("neoverse-n1", 64, 2500, _AWS),),
        _gib(2, 4, 8, 16, 32, 64, 128), "AWS: instances c6g",
    ),
    Board(
        "graviton3", "AWS Graviton3", "Graviton3", (_cores("neoverse-v1", 64, 2600, _AWS),),
        _gib(2, 4, 8, 16, 32, 64, 128), "AWS: instances c7g",
    ),
    Board(
        "m2", "Apple M2", "M2",
        (
            Part(CPU, "Apple M2", tuple(f"arm_cpu:{each}" for each in ("apple-m2", *_STAND_INS["apple-m2"])),
                 _APPLE, "apple-m2", 4, note=_LINUX_ON_IT),
            _gpu("Apple M2 GPU", "metal", _APPLE, note="compiled only: nothing here runs it"),
        ),
        _gib(8, 16, 24), _APPLE, ("Apple MacBook Air (13-inch, M2", "Apple Mac mini (M2,"), "4 efficiency cores",
    ),
)
# fmt: on

_BY_NAME = {board.name: board for board in BOARDS}


def find_board(name: str) -> tuple[Board, Part | None] | None:
    """Look `BOARD[:PART]` up: None for what is no board, and no part where it has none so called."""
    board, _, part = name.partition(":")
    found = _BY_NAME.get(board)
    return None if found is None else (found, found.part(part))


def every_part() -> Iterator[tuple[Board, Part]]:
    """Yield every part of every board, in the order of the table."""
    return ((board, part) for board in BOARDS for part in board.parts)


def names() -> dict[str, str]:
    """Return all that boards are called, and how each is written on the command line."""
    spelled = {board.spelled(part): board.spelled(part) for board, part in every_part()}
    products = {board.product: board.name for board in BOARDS}
    chips = {board.chip: board.name for board in reversed(BOARDS)}
    return {**chips, **products, **spelled}


def boards_like(model: str, cores: set[str], count: int) -> list[Board]:
    """Return the rows that a machine may be.

    Args:
        model: what its firmware calls it; empty if it says nothing.
        cores: LLVM's names of the kinds of its cores.
        count: how many cores it has in all.

    Returns:
        The one row of that name, or else all with as many cores of these kinds.
    """
    named = [board for board in BOARDS if model and model.startswith(board.models or ("\0",))]
    alike = [board for board in BOARDS if board.kinds == cores and board.cores == count]
    return named[:1] or (alike if cores else [])
