"""Which processor this is, and which of its cores a benchmark may have to itself."""

import os
import platform
from pathlib import Path

from mbv3c.errors import UsageError

_SYSTEM = Path("/sys/devices/system/cpu")


def processor_name() -> str:
    """Return the name that the processor gives itself, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def choose_cpus(count: int) -> list[int]:
    """Choose logical processors to pin to, of different cores as far as there are enough.

    Raises:
        UsageError: this process may not use as many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(allowed):
        raise UsageError(
            f"--threads {count} is not possible: this process may use {len(allowed)} processors"
        )
    return sorted(sorted(allowed, key=_place_in_core)[:count])


def _place_in_core(cpu: int) -> int:
    """Return how many processors of the same core come before this one."""
    try:
        text = (_SYSTEM / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return 0
    siblings: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings += range(int(first), int(last or first) + 1)
    return sorted(siblings).index(cpu)
