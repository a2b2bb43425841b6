"""The worker of `mbv3c.execution.timing.worker`, with LiteRT as one more contender.

It opens the TFLite file that `write_file` put beside the bundle.
"""

import sys
from pathlib import Path

import numpy as np
import onnx

from benchmarks.litert import FILE, open_litert
from benchmarks.tflite import tflite_of
from mbv3c.bundle import GOLDEN_INPUT, GOLDEN_OUTPUT
from mbv3c.errors import ToolError
from mbv3c.execution.timing import worker
from mbv3c.execution.timing.worker import Run
from mbv3c.feeds import Feed, arrays_of
from mbv3c.parity.reference import error_of_range

LITERT = "LiteRT"
MODULE = "benchmarks.contenders"
_LARGEST_ERROR = 1e-4  # of the range, in fp32


def write_file(model: onnx.ModelProto, bundle: Path) -> float:
    """Write the TFLite file of an fp32 bundle; return LiteRT's error of the range.

    Raises:
        ToolError: LiteRT computes another network.
    """
    file = bundle.with_name(FILE)
    file.write_bytes(tflite_of(model))
    found = open_litert(file, np.load(bundle / GOLDEN_INPUT), 1)()
    error = error_of_range(found, np.load(bundle / GOLDEN_OUTPUT))
    if not error <= _LARGEST_ERROR:
        raise ToolError(f"LiteRT is {error:.1e} of the range off; at most {_LARGEST_ERROR:.0e}")
    return error


def _open(bundle: Path, x: Feed, threads: int, device: str) -> Run:
    (array,) = arrays_of(x)
    return open_litert(bundle.with_name(FILE), array, threads)


worker.CONTENDERS[LITERT] = worker.Contender(_open, "ai_edge_litert", "ai-edge-litert", "bench")

if __name__ == "__main__":
    worker.main(*sys.argv[1:])
