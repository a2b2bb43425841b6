"""What a board's sensors tell: heat, clock, power and energy, from files of Linux's kernel.

What a board has no sensor for, or may not be read, is None or left out; nothing is guessed.

    temperature   class/thermal/thermal_zone*/temp, in thousandths of °C
    clock         devices/system/cpu/cpu*/cpufreq/scaling_cur_freq, in kHz
    power         class/hwmon/hwmon*/power*_input (INA226 and others), in µW; of an INA3221, which
                  has none, in*_input in mV times curr*_input in mA
    energy        class/powercap/*/energy_uj and class/hwmon/hwmon*/energy*_input, in µJ

(Documentation/hwmon/sysfs-interface.rst, power/powercap/powercap.rst and cpu-freq of Linux.)
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RASPBERRY = "devices/platform/soc/soc:firmware/get_throttled"
_NOW = 0xF  # of its bits: those that say what is, and not what has been


@dataclass(frozen=True)
class Counter:
    """A counter of energy.

    Attributes:
        joules: what it has counted.
        wraps_at: joules at which it begins again; None if that is unknown.
    """

    joules: float
    wraps_at: float | None = None

    def since(self, before: "Counter") -> float | None:
        """Return the joules since an earlier look; None if it began again, and nobody knows where.

        A counter that begins again twice between two looks is not noticed.
        """
        spent = self.joules - before.joules
        if spent >= 0:
            return spent
        return None if self.wraps_at is None else spent + self.wraps_at


@dataclass(frozen=True)
class Reading:
    """What all sensors told at one moment.

    Attributes:
        celsius: temperature of the hottest zone.
        mhz: the slowest clock among the processors that were asked about.
        throttled: whether the clock was held down, by heat or by a weak supply.
        watts: power by the name of the sensor.
    """

    celsius: float | None
    mhz: float | None
    throttled: bool | None
    watts: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def read_sensors(cpus: Sequence[int], root: Path = Path("/")) -> Reading:
    """Read all sensors but counters; the clock is that of some processors."""
    system = root / "sys"
    return Reading(
        celsius=temperature(system),
        mhz=clock(cpus, system),
        throttled=throttled(system),
        watts=dict(_watts(system)),
    )


def temperature(system: Path) -> float | None:
    """Return the degrees Celsius of the hottest zone."""
    zones = (system / "class" / "thermal").glob("thermal_zone*/temp")
    return max(
        (value / 1000 for value in map(read_number, zones) if value is not None), default=None
    )


def clock(cpus: Sequence[int], system: Path) -> float | None:
    """Return the slowest clock of some processors in MHz."""
    folder = system / "devices" / "system" / "cpu"
    found = [read_number(folder / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq") for cpu in cpus]
    return min((kilohertz / 1000 for kilohertz in found if kilohertz is not None), default=None)


def throttled(system: Path) -> bool | None:
    """Ask the firmware of a Raspberry Pi, and what the kernel cools processors with."""
    limits = []
    firmware = (read_text(system / _RASPBERRY) or "").strip()
    with suppress(ValueError):
        limits.append(bool(int(firmware, 16) & _NOW))
    for device in (system / "class" / "thermal").glob("cooling_device*"):
        kind, state = read_text(device / "type") or "", read_number(device / "cur_state")
        if "cpufreq" in kind and state is not None:
            limits.append(state > 0)
    return any(limits) if limits else None


def counters(root: Path = Path("/")) -> dict[str, Counter]:
    """Read all counters of energy, by name."""
    system, found = root / "sys", {}
    for zone in sorted((system / "class" / "powercap").glob("*")):
        counted = read_number(zone / "energy_uj")
        if counted is not None:
            largest = read_number(zone / "max_energy_range_uj")
            name = (read_text(zone / "name") or "").strip() or zone.name
            found[f"{name} ({zone.name})"] = Counter(
                counted / 1e6, None if largest is None else largest / 1e6
            )
    for chip, file in _channels(system, "energy", "_input"):
        counted = read_number(file)
        if counted is not None:
            found[_named(chip, file, "energy")] = Counter(counted / 1e6)
    return found


def _watts(system: Path) -> Iterator[tuple[str, float]]:
    for chip, file in _channels(system, "power", "_input"):
        power = read_number(file)
        if power is not None:
            yield _named(chip, file, "power"), power / 1e6
    for chip, file in _channels(system, "curr", "_input"):
        number = file.name.removeprefix("curr").removesuffix("_input")
        current, voltage = read_number(file), read_number(chip / f"in{number}_input")
        has_power = any(chip.glob("power*_input"))
        if current is not None and voltage is not None and not has_power:
            yield _named(chip, file, "in"), current * voltage / 1e6


def _channels(system: Path, kind: str, suffix: str) -> Iterator[tuple[Path, Path]]:
    """Yield chips and their files of a kind."""
    for chip in sorted((system / "class" / "hwmon").glob("hwmon*")):
        for file in sorted(chip.glob(f"{kind}[0-9]*{suffix}")):
            yield chip, file


def _named(chip: Path, file: Path, kind: str) -> str:
    """Return what the chip and the maker of the board call a channel."""
    number = "".join(filter(str.isdigit, file.name))
    label = (read_text(chip / f"{kind}{number}_label") or "").strip()
    name = (read_text(chip / "name") or "").strip() or chip.name
    return f"{label or f'channel {number}'} ({name}, {chip.name})"


def read_number(file: Path) -> int | None:
    """Return the whole number in a file of the kernel; None where it is missing or no number."""
    text = (read_text(file) or "").strip()
    return int(text) if text.removeprefix("-").isdecimal() else None


def read_text(path: Path) -> str | None:
    """Return the text of a file of the kernel; None where it is missing or gives nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:  # also what sensors answer that are switched off
        return None
