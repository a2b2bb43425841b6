"""Clusters of equal processors, and on which of them with how many threads to measure."""

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mbv3c.errors import UsageError
from mbv3c.execution.device.machine import arm_cores
from mbv3c.execution.device.sensors import read_number
from mbv3c.execution.timing.latency import place_in_core

ALL, BIG, MIDDLE, LITTLE = "all", "big", "middle", "little"


@dataclass(frozen=True)
class Cluster:
    """Processors of one speed.

    Attributes:
        name: "all" if there are no others; else "big", "little", and "middle" between them.
        cpus: their numbers; of processors that share a core the second ones come last.
        core: LLVM's name of the core; None where it is not one of Arm's.
        mhz: their highest clock; None where the system does not say.
    """

    name: str
    cpus: tuple[int, ...]
    core: str | None = None
    mhz: float | None = None


@dataclass(frozen=True)
class Configuration:
    """How to run: so many threads on so many processors.

    Attributes:
        cluster: name of the cluster, or the numbers that the user gave.
        cpus: processors to stay on, as many as there are threads.
    """

    cluster: str
    cpus: tuple[int, ...]

    @property
    def threads(self) -> int:
        return len(self.cpus)


def find_clusters(allowed: Sequence[int], root: Path = Path("/")) -> list[Cluster]:
    """Find the clusters of a machine, the fastest first.

    Processors are told apart by the capacity that the kernel gives them or else, on Arm, by their
    highest clock. Turbo gives every core of an x86 a clock of its own, and makes no clusters.

    Args:
        allowed: numbers of the processors that may be used.
        root: the folder that has proc and sys.
    """
    folder = root / "sys" / "devices" / "system" / "cpu"
    clocks = {cpu: read_number(folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq") for cpu in allowed}
    speeds = {cpu: read_number(folder / f"cpu{cpu}/cpu_capacity") for cpu in allowed}
    if None in speeds.values():
        told = platform.machine() == "aarch64" and None not in clocks.values()
        speeds = clocks if told else dict.fromkeys(allowed, 0)
    kinds = sorted({speed for speed in speeds.values() if speed is not None}, reverse=True)
    cores, found = arm_cores(root), []
    for name, kind in zip(_names(len(kinds)), kinds, strict=True):
        cpus = [cpu for cpu in sorted(allowed) if speeds[cpu] == kind]
        cpus.sort(key=lambda cpu: place_in_core(cpu, folder))
        names = {cores.get(cpu) for cpu in cpus}
        highest = [clock / 1000 for cpu in cpus if (clock := clocks[cpu]) is not None]
        core = names.pop() if len(names) == 1 else None
        found.append(Cluster(name, tuple(cpus), core, max(highest, default=None)))
    return found


def _names(count: int) -> list[str]:
    """Name so many clusters, the fastest first."""
    if count == 1:
        return [ALL]
    between = [MIDDLE] if count == 3 else [f"{MIDDLE}{1 + i}" for i in range(count - 2)]
    return [BIG, *between, LITTLE]


def configurations(
    clusters: Sequence[Cluster], cores: int, pin: str | None, threads: int | None
) -> list[Configuration]:
    """Choose what to measure.

    Args:
        clusters: the clusters of the device.
        cores: number of threads that the library was compiled for.
        pin: name of a cluster, or numbers such as 4-7 or 0,2; None for every cluster in turn.
        threads: number of threads; None for 1, 2, 4 and so on.

    Raises:
        UsageError: the device has no such processors, or too few of them.
    """
    chosen = list(clusters) if pin is None else [_pinned(clusters, pin)]
    fitting = [one for one in chosen if threads is None or threads <= len(one.cpus)]
    if not fitting:
        sizes = ", ".join(f"{one.name} has {len(one.cpus)}" for one in chosen)
        raise UsageError(
            f"--threads {threads} is more than the device has processors ({sizes}); take fewer, "
            "or name others with --pin"
        )
    return [
        Configuration(one.name, one.cpus[:count])
        for one in fitting
        for count in ([threads] if threads is not None else _counts(min(cores, len(one.cpus))))
    ]


def _counts(most: int) -> list[int]:
    """Return 1, 2, 4 and so on up to a number, which comes last."""
    powers = [1 << exponent for exponent in range(most.bit_length())]
    return [*(power for power in powers if power < most), most]


def _pinned(clusters: Sequence[Cluster], pin: str) -> Cluster:
    named = {one.name: one for one in clusters}
    if pin in named:
        return named[pin]
    known = {cpu for one in clusters for cpu in one.cpus}
    numbers = parse_cpus(pin)
    there = "; ".join(f"{one.name} ({','.join(map(str, one.cpus))})" for one in clusters)
    if numbers is None or not set(numbers) <= known:
        raise UsageError(f"--pin {pin}: the device has no such processors; it has {there}")
    return Cluster(pin, numbers)


def parse_cpus(text: str) -> tuple[int, ...] | None:
    """Read numbers such as 4-7 or 0,2; None if it is something else."""
    found: list[int] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if numbers is None:
            return None
        first, last = numbers.groups()
        found += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(found)) or None
