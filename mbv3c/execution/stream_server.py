"""The process in which a bundle runs on one input after the other.

    python -m mbv3c.execution.stream_server MODULE:FUNCTION BUNDLE

The function opens the bundle and returns what runs it on one input. The process reads .npy arrays
from standard input until that ends, and writes the outputs of each to standard output, as
`mbv3c_run --stream` does on a board.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from mbv3c.execution.npy_stream import read_array, written
from mbv3c.execution.runners import Tensor

Infer = Callable[[Tensor], list[Tensor]]


def server_command(opener: Callable[[Path], Infer], bundle: Path) -> list[str]:
    """Return the command that starts the process; `opener` is a function of a module."""
    name = f"{opener.__module__}:{opener.__qualname__}"
    return [sys.executable, "-m", __name__, name, str(bundle)]


def main(opener: str, bundle: str) -> None:
    """Open the bundle and answer until the input ends."""
    # Libraries may print; our answers keep the real standard output for themselves.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    infer, inputs = resolve_name(opener)(Path(bundle)), os.fdopen(0, "rb")
    while (x := read_array(inputs)) is not None:
        for output in infer(x):
            answers.write(written(output))
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
