"""Steps under an alarm: whoever waits for a device learns in which step it hangs."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STEP = "step"

Result = TypeVar("Result")


class Steps:
    """Runs steps under an alarm and keeps their names for whoever started this process.

    Attributes:
        failed: name of the last step that raised an exception.
        proven: whether the device ran what it must be able to run; see `timing`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STEP
        self.failed = "starting"
        self.proven = False

    def run(self, name: str, seconds: float, step: Callable[[], Result]) -> Result:
        here = {"step": name, "seconds": seconds, "proven": self.proven}
        self._file.write_text(json.dumps(here))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process
        try:
            return step()
        except Exception:
            self.failed = name
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
