"""Arm's TOSA reference model: what a TOSA file computes, bit for bit."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.errors import ToolError


def run_tosa(tosa: bytes, inputs: Sequence[NDArray[np.int8]]) -> list[NDArray[Any]]:
    """Run a TOSA file on inputs of N, H, W, C.

    Raises:
        ToolError: the reference model refuses the file.
    """
    import tosa_reference_model

    arrays = [np.ascontiguousarray(x) for x in inputs]
    with _silent():
        outputs, status = tosa_reference_model.run(tosa, arrays)
    if status != tosa_reference_model.GraphStatus.TOSA_VALID:
        raise ToolError(f"Arm's TOSA reference model does not run the network: {status}")
    return list(outputs)


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what C++ prints: a warning that TOSA 1.0.0 is older than the model, as it must be."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)
