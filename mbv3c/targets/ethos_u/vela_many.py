"""Have vela estimate many networks in one process: most of a call's time is Python's start.

    python -m mbv3c.targets.ethos_u.vela_many FOLDER OPTIONS…

Each folder in FOLDER has a `model.tosa`; what vela says of it is written beside, or into `failed`.
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from mbv3c.errors import ModelError
from mbv3c.execution.processes import require
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u import vela
from mbv3c.targets.ethos_u.devices import Knobs, NpuTarget, check_knobs

_FAILED = "failed"
_SECONDS = 60  # for each network at most
_START = 60


def estimate_many(tosas: Sequence[bytes], target: NpuTarget, knobs: Knobs) -> list[vela.Cost]:
    """Return what vela estimates for some networks, for the memories that vela brings.

    Raises:
        UsageError: a knob has a value that does not suit the device.
        ModelError: vela does not take one of the networks.
        ToolError: vela does not start, or does not end.
    """
    check_knobs(knobs, target)
    with scratch_folder("vela") as folder:
        places = [folder / f"{number}" for number in range(len(tosas))]
        for place, tosa in zip(places, tosas, strict=True):
            place.mkdir()
            (place / vela.TOSA_FILE).write_bytes(tosa)
        require(
            [sys.executable, "-m", __name__, folder, *vela.arguments(target, knobs, None)],
            doing="estimating costs by vela",
            remedy="`mbv3c doctor` checks the NPU's tools",
            timeout=_START + _SECONDS * len(tosas),
        )
        for place in places:
            if (said := place / _FAILED).exists():
                raise ModelError(f"vela failed on the network: {said.read_text()}")
        return [vela.read_cost(place) for place in places]


def main(folder: Path, options: Sequence[str]) -> None:
    """Have vela estimate every network of a folder."""
    from ethosu.vela import vela as arms

    for place in sorted(folder.iterdir()):
        printed = io.StringIO()
        arguments = [str(place / vela.TOSA_FILE), *options, "--output-dir", str(place)]
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                status = arms.main([*arguments, "--verbose-performance"])
        except (Exception, SystemExit) as error:  # vela raises its own and others
            status = str(error) or type(error).__name__
        if status:
            lines = [str(status), *printed.getvalue().strip().splitlines()[-1:]]
            (place / _FAILED).write_text("; ".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
