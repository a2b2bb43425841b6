"""What is to be measured on a device; TVM is not imported to check that."""

import re
from dataclasses import dataclass

from mbv3c.errors import UsageError
from mbv3c.execution.device.clusters import ALL, BIG, LITTLE, MIDDLE, parse_cpus
from mbv3c.execution.timing.beside import ONNXRUNTIME

_NAME = re.compile(f"{ALL}|{BIG}|{LITTLE}|{MIDDLE}[1-9]?")
NONE = "none"
_LONGEST = 24 * 60.0  # minutes


@dataclass(frozen=True)
class DeviceBenchRequest:
    """What the user asked for; None where nothing was said.

    Attributes:
        against: "onnxruntime", or "none".
        threads: number of threads.
        runs: timed inferences of each side in each configuration.
        pin: "big", "little", or numbers of processors such as 4-7.
        minutes: how long the quickest configuration runs in the end.
    """

    against: str | None = None
    threads: int | None = None
    runs: int | None = None
    pin: str | None = None
    minutes: float | None = None

    def check(self) -> None:
        """Make sure that this can be measured on some device.

        Raises:
            UsageError: it cannot.
        """
        if self.against not in (None, ONNXRUNTIME, NONE):
            raise UsageError(
                f"--against {self.against}: a device is measured beside {ONNXRUNTIME}, or {NONE}"
            )
        for name, least in (("threads", 1), ("runs", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} {value} is not possible; choose at least {least}")
        if self.minutes is not None and not 0 < self.minutes <= _LONGEST:
            raise UsageError(
                f"--minutes {self.minutes:g} is not possible; choose more than 0, and at most "
                f"{_LONGEST:g}"
            )
        if self.pin is not None and not _NAME.fullmatch(self.pin) and parse_cpus(self.pin) is None:
            raise UsageError(
                f"--pin {self.pin!r} names no processors: write {BIG}, {LITTLE}, or numbers such "
                "as 4-7"
            )
