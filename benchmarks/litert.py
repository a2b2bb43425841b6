"""LiteRT with XNNPACK on all of a network; also imported inside of the emulator, without mbv3c."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

FILE = "model.tflite"  # beside a model or a bundle


class PartlyTakenError(RuntimeError):
    """XNNPACK left operators to LiteRT's own kernels."""


def open_litert(
    model: Path | str | bytes, x: np.ndarray, threads: int, *, whole: bool = True
) -> Callable[[], np.ndarray]:
    """Return what runs one inference, and returns the output as it lies in memory.

    Args:
        model: a TFLite file or its bytes, with one input of N, H, W, C.
        x: the input as N, C, H, W; it is set once, and LiteRT keeps it.
        threads: number of threads.
        whole: whether XNNPACK has to take all operators.

    Raises:
        PartlyTakenError: it did not.
    """
    given = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    interpreter = Interpreter(**given, num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    if whole and not _is_whole(interpreter, source["index"], output["index"]):
        raise PartlyTakenError("XNNPACK does not compute the whole network")
    interpreter.set_tensor(source["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))

    def run() -> np.ndarray:
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def _is_whole(interpreter: Interpreter, source: int, output: int) -> bool:
    """Say whether one delegate goes from the network's input to its output.

    LiteRT's list keeps the operators that a delegate took. One that was left would cut the network
    into several delegates, or would read or write what is not the network's.
    """
    taken = [one for one in interpreter._get_ops_details() if one["op_name"] == "DELEGATE"]
    if len(taken) != 1:
        return False
    return source in taken[0]["inputs"] and list(taken[0]["outputs"]) == [output]
