"""The process in which a bundle runs on one input after the other.

    python -m mbv3c.targets.serve KIND FOLDER

KIND is what runs it: `cpu`, `opencl` or `npu`. It reads .npy arrays from standard input until that
ends, and writes the outputs of each to standard output, as `mbv3c_run --stream` does on a board.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from mbv3c.bundle import read_bundle
from mbv3c.execution.npy_stream import Tensor, read_array, written

CPU, OPENCL, NPU = "cpu", "opencl", "npu"


def main(kind: str, folder: str) -> None:
    """Open the bundle and answer until the input ends."""
    # Libraries may print; our answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    infer, given = _OPENED[kind](Path(folder)), os.fdopen(0, "rb")
    while (x := read_array(given)) is not None:
        for output in infer(x):
            answers.write(written(output))
        answers.flush()


def _cpu(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.execution.host import HostRunner

    return HostRunner().opened(folder)


def _opencl(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.execution.opencl.runner import open_opencl

    return open_opencl().opened(folder)


def _npu(folder: Path) -> Callable[[Tensor], list[Tensor]]:
    from mbv3c.targets.ethos_u.runner import StreamRunner  # needs vela

    return StreamRunner(read_bundle(folder)).opened(folder)


_OPENED = {CPU: _cpu, OPENCL: _opencl, NPU: _npu}


if __name__ == "__main__":
    main(*sys.argv[1:])
