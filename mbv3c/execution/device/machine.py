"""What a machine that serves as a device is, as it says itself, and what a library needs of it."""

import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.sensors import read_text, temperature, throttled
from mbv3c.execution.opencl.runtime import DeviceInfo

_HOT = 80.0  # °C; a Raspberry Pi begins to lower its clock there
# What tells a board from others of its kind: the maker's number, or else the system's own.
_NUMBERS = ("sys/firmware/devicetree/base/serial-number", "etc/machine-id")
_MODEL = "sys/firmware/devicetree/base/model"

_AND = " and "

# MIDR_EL1's part numbers of Arm's own processors, as the kernel's cpuinfo prints them.
_ARM = "0x41"
_PARTS = {
    "0xd03": "cortex-a53",
    "0xd04": "cortex-a35",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd0d": "cortex-a77",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
    "0xd42": "cortex-a78ae",
    "0xd44": "cortex-x1",
    "0xd46": "cortex-a510",
    "0xd47": "cortex-a710",
    "0xd4d": "cortex-a715",
    "0xd4e": "cortex-x3",
    "0xd80": "cortex-a520",
    "0xd81": "cortex-a720",
    "0xd82": "cortex-x4",
}


@dataclass(frozen=True)
class Machine:
    """A machine; None stands for what cannot be read.

    Attributes:
        name: host name.
        architecture: architecture, as `uname -m` prints it.
        cpu: names of all kinds of its processors; LLVM's names where the processors are Arm's.
        cores: number of logical processors that the server may use.
        governors: rules by which the clocks are chosen, such as "performance", one for each kind.
        temperature: degrees Celsius of the hottest zone, when this was read.
        throttled: whether the clock was held down then, by heat or by a weak supply.
        number: a digest of the board's serial number, or of the system's id; empty without either.
        model: what its firmware calls the board; empty if it says nothing.
        opencl: OpenCL device that bundles for GPUs run on.
        opencl_missing: reason why there is no OpenCL device; empty where nobody looked.
        emulated: whether a program of another kind of processor emulates this one. What emulates
            a whole machine, its kernel included, cannot be told.
    """

    name: str
    architecture: str
    cpu: str | None
    cores: int
    governors: tuple[str, ...]
    temperature: float | None
    opencl: DeviceInfo | None = None
    opencl_missing: str = ""
    throttled: bool | None = None
    number: str = ""
    model: str = ""
    emulated: bool = False

    @property
    def doubts(self) -> dict[str, str]:
        """Why times measured on it may differ from one run to the next, in words by kind."""
        doubts = {}
        if self.emulated:
            doubts["emulated"] = (
                "its processor is emulated: times are the emulator's and say nothing about a board"
            )
        others = [governor for governor in self.governors if governor != "performance"]
        if others:
            doubts["governor"] = (
                f"its clock is governed by {' and '.join(others)}: set `performance` "
                "(`cpupower frequency-set -g performance`), or times will vary"
            )
        if self.throttled:
            doubts["throttled"] = "its clock is held down, by heat or a weak supply: cool it"
        if self.temperature is not None and self.temperature >= _HOT:
            doubts["hot"] = f"it is hot ({self.temperature:.0f} °C) and may be held down: cool it"
        return doubts

    @property
    def kinds(self) -> set[str]:
        """The kinds of its processors."""
        return set(self.cpu.split(_AND)) if self.cpu else set()

    @property
    def processor(self) -> str:
        """What computes, in a few words."""
        plural = "" if self.cores == 1 else "s"
        cpu = self.cpu or "unknown processor"
        emulated = ", emulated" if self.emulated else ""
        return f"{cpu} ({self.architecture}, {self.cores} core{plural}{emulated})"

    @property
    def sentence(self) -> str:
        """All that it is, in a line."""
        clock = "".join(f", {governor}" for governor in self.governors)
        heat = f", {self.temperature:.0f} °C" if self.temperature is not None else ""
        gpu = f", OpenCL: {self.opencl.name}" if self.opencl else ""
        slow = ", throttled" if self.throttled else ""
        return f"{self.processor}{clock}{heat}{slow}{gpu}"

    def lasting(self, *, gpu: bool) -> str:
        """Return what times measured on it belong to: it, and how its clock is governed.

        `gpu` says whether its GPU computed, through OpenCL.
        """
        parts = [self.name, self.processor, *self.governors]
        if gpu and self.opencl is not None:
            parts += [self.opencl.sentence, self.opencl.driver]
        return ", ".join([*parts, *([f"number {self.number}"] if self.number else [])])

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return asdict(self)


def machine_from_json(document: dict[str, Any]) -> Machine:
    """Return the machine that `Machine.to_json` wrote, on whatever machine that was.

    Raises:
        TypeError: it was written by another version.
    """
    opencl = document["opencl"]
    return Machine(
        **{
            **document,
            "governors": tuple(document["governors"]),
            "opencl": DeviceInfo(**opencl) if opencl else None,
        }
    )


def read_machine(root: Path = Path("/")) -> Machine:
    """Read what this machine is from files below `root`; opens no OpenCL driver."""
    return Machine(
        name=platform.node(),
        architecture=platform.machine(),
        cpu=_cpu(root / "proc" / "cpuinfo"),
        cores=len(os.sched_getaffinity(0)),
        governors=_governors(root / "sys" / "devices" / "system" / "cpu"),
        temperature=temperature(root / "sys"),
        throttled=throttled(root / "sys"),
        number=_number(root),
        model=(read_text(root / _MODEL) or "").strip("\0 \n"),
        emulated=_emulated(root / "proc/thread-self/exe", platform.machine()),
    )


# Machines of ELF headers, and of `uname -m`, by the kind of processor that runs both.
_KINDS = {3: "x86", 62: "x86", 40: "arm", 183: "arm"}
_NAMES = {"i386": "x86", "i686": "x86", "x86_64": "x86", "armv7l": "arm", "aarch64": "arm"}


def _emulated(program: Path, architecture: str) -> bool:
    """Say whether the program that the kernel runs is of another kind of processor.

    QEMU's user mode shows the emulated program as /proc/self/exe, and itself by other ways.
    """
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError:
        return False
    kind = _KINDS.get(int.from_bytes(head[18:20], "little"))
    seen = _NAMES.get(architecture)
    return kind is not None and seen is not None and kind != seen


def _number(root: Path) -> str:
    texts = ((read_text(root / path) or "").strip("\0 \n") for path in _NUMBERS)
    text = next(filter(None, texts), "")
    return hashlib.sha256(f"mbv3c {text}".encode()).hexdigest()[:12] if text else ""


def _cpu(cpuinfo: Path) -> str | None:
    pairs = _pairs(cpuinfo)
    ours = {value for key, value in pairs if key == "CPU implementer"} == {_ARM}
    parts = [value for key, value in pairs if key == "CPU part" and ours]
    names = parts or [value for key, value in pairs if key == "model name"]
    return _AND.join(dict.fromkeys(_PARTS.get(name, name) for name in names)) or None


def arm_cores(root: Path = Path("/")) -> dict[int, str]:
    """Return LLVM's name of each processor that is Arm's own, by its number."""
    number, maker, found = None, "", {}
    for key, value in _pairs(root / "proc" / "cpuinfo"):
        if key == "processor":
            number = int(value) if value.isdecimal() else None
        elif key == "CPU implementer":
            maker = value
        elif key == "CPU part" and number is not None and maker == _ARM:
            found[number] = _PARTS.get(value, value)
    return found


def _pairs(cpuinfo: Path) -> list[tuple[str, str]]:
    lines = (read_text(cpuinfo) or "").splitlines()
    return [
        (key.strip(), value.strip()) for key, _, value in (one.partition(":") for one in lines)
    ]


def _governors(cpus: Path) -> tuple[str, ...]:
    texts = (read_text(path) for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")))
    return tuple(dict.fromkeys(text.strip() for text in texts if text))


@dataclass(frozen=True)
class DeviceNeeds:
    """What a library needs.

    Attributes:
        target: FAMILY:DEVICE that the library was built for.
        triple: LLVM's target triple of the library.
        cpu: LLVM's name of the processor.
        opencl: whether its kernels run on a GPU, through OpenCL.
    """

    target: str
    triple: str
    cpu: str
    opencl: bool

    @property
    def arch(self) -> str:
        """The machine of the library, as `uname -m` prints it."""
        return self.triple.partition("-")[0]

    def check(self, machine: Machine, claim: str, device: str, remedy: str) -> None:
        """Make sure that a machine runs the library.

        Args:
            machine: what the device is.
            claim: the words before the library's architecture, such as `X has a library for`.
            device: how messages call the device.
            remedy: what to do if it has another architecture.

        Raises:
            UsageError: it has another architecture.
            ToolError: it has no OpenCL device, and the library needs one.
        """
        if machine.architecture != self.arch:
            raise UsageError(
                f"{claim} {self.arch}, and {device} is {machine.sentence}; {remedy}: "
                "`mbv3c targets` lists what there is"
            )
        if self.opencl and machine.opencl is None:
            raise ToolError(
                f"{device} has no OpenCL device for {self.target}: {machine.opencl_missing}"
            )

    def doubts(self, machine: Machine) -> list[str]:
        """Say what makes times that a machine measures doubtful for the target."""
        doubts = []
        if self.opencl and machine.opencl is not None and not machine.opencl.is_gpu:
            doubts.append(
                f"the OpenCL device of {machine.name} is a CPU ({machine.opencl.platform}): its "
                "times say nothing about a GPU"
            )
        named = self.arch == "aarch64" and not self.opencl and machine.cpu is not None
        if named and self.cpu not in str(machine.cpu):
            doubts.append(
                f"{machine.name} is {machine.processor}, and what is measured there goes to the "
                f"database of {self.target}"
            )
        return doubts
