"""What a machine that serves as a device is, as it says itself."""

import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3c.execution.opencl.runtime import DeviceInfo

_HOT = 80.0  # °C; a Raspberry Pi begins to lower its clock there
_RASPBERRY = "devices/platform/soc/soc:firmware/get_throttled"
_NOW = 0xF  # of its bits: those that say what is, and not what has been

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
    "0xd41": "cortex-a78",
    "0xd44": "cortex-x1",
    "0xd46": "cortex-a510",
    "0xd47": "cortex-a710",
    "0xd4d": "cortex-a715",
    "0xd80": "cortex-a520",
}


@dataclass(frozen=True)
class Machine:
    """A machine; everything about it is None where it cannot be read.

    Attributes:
        name: its host name.
        architecture: as `uname -m` prints it.
        cpu: its processors, in LLVM's names where they are Arm's; of several kinds all.
        cores: how many logical processors the server may use.
        governors: how their clocks are chosen, such as "performance"; one entry for each kind.
        temperature: of its hottest zone, in degrees Celsius, when this was read.
        throttled: whether its clock was held down then, by heat or by a weak supply.
        opencl: the OpenCL device that bundles for GPUs run on.
        opencl_missing: why there is none; empty where nobody looked.
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

    @property
    def doubts(self) -> dict[str, str]:
        """Why times measured on it may differ from one run to the next, in words by kind."""
        found = {}
        others = [one for one in self.governors if one != "performance"]
        if others:
            found["governor"] = (
                f"its clock is governed by {' and '.join(others)}: set `performance` "
                "(`cpupower frequency-set -g performance`), or times will vary"
            )
        if self.throttled:
            found["throttled"] = "its clock is held down, by heat or a weak supply: cool it"
        if self.temperature is not None and self.temperature >= _HOT:
            found["hot"] = f"it is hot ({self.temperature:.0f} °C) and may be held down: cool it"
        return found

    @property
    def processor(self) -> str:
        """What computes, in a few words."""
        plural = "" if self.cores == 1 else "s"
        cpu = self.cpu or "unknown processor"
        return f"{cpu} ({self.architecture}, {self.cores} core{plural})"

    @property
    def sentence(self) -> str:
        """All that it is, in a line."""
        clock = "".join(f", {one}" for one in self.governors)
        heat = f", {self.temperature:.0f} °C" if self.temperature is not None else ""
        gpu = f", OpenCL: {self.opencl.name}" if self.opencl else ""
        slow = ", throttled" if self.throttled else ""
        return f"{self.processor}{clock}{heat}{slow}{gpu}"

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return asdict(self)


def machine_from_json(document: dict[str, Any]) -> Machine:
    """Return what `Machine.to_json` wrote, on whatever machine that was.

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
        temperature=_temperature(root / "sys" / "class" / "thermal"),
        throttled=_throttled(root / "sys"),
    )


def _cpu(cpuinfo: Path) -> str | None:
    lines = (_read(cpuinfo) or "").splitlines()
    pairs = [tuple(map(str.strip, line.partition(":")[::2])) for line in lines]
    ours = {value for key, value in pairs if key == "CPU implementer"} == {_ARM}
    parts = [value for key, value in pairs if key == "CPU part" and ours]
    names = parts or [value for key, value in pairs if key == "model name"]
    return " and ".join(dict.fromkeys(_PARTS.get(name, name) for name in names)) or None


def _governors(cpus: Path) -> tuple[str, ...]:
    found = (_read(path) for path in sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")))
    return tuple(dict.fromkeys(one.strip() for one in found if one))


def _temperature(thermal: Path) -> float | None:
    found = []
    for path in thermal.glob("thermal_zone*/temp"):
        text = (_read(path) or "").strip()
        if text.removeprefix("-").isdigit():
            found.append(int(text) / 1000)
    return max(found, default=None)


def _throttled(system: Path) -> bool | None:
    """Ask the firmware of a Raspberry Pi, and what the kernel cools processors with."""
    found = []
    firmware = (_read(system / _RASPBERRY) or "").strip()
    with suppress(ValueError):
        found.append(bool(int(firmware, 16) & _NOW))
    for device in (system / "class" / "thermal").glob("cooling_device*"):
        kind, state = _read(device / "type") or "", (_read(device / "cur_state") or "").strip()
        if "cpufreq" in kind and state.isdigit():
            found.append(int(state) > 0)
    return any(found) if found else None


def _read(path: Path) -> str | None:
    """Return a file of the kernel; None where it is not there or gives nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:  # also what sensors answer that are switched off
        return None
