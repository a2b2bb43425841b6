"""Run another runtime inside of the emulator, with marks around every inference.

    python guest.py RUNTIME PRECISION MODEL INPUT.npy OUTPUT.npy MARKS.so INFERENCES

INFERENCES is 0 to open the model and run it once between the marks.

One thread. PRECISION is fp32; of ncnn also fp16, its default; of onnxruntime int8; of LiteRT
fp16, int8, and "int8, own hard-swish", where XNNPACK leaves some operators to it. It runs on the
emulated machine's Python, where mbv3c is not installed.
"""

import ctypes
import importlib
import sys
from collections.abc import Callable

import numpy as np


def open_onnxruntime(model: str, precision: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    assert precision in ("fp32", "int8")  # it computes in the types of the model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, given)[0]


def open_ncnn(model: str, precision: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    halves = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
    assert all(getattr(net.opt, name) for name in halves)  # ncnn's own default
    assert not net.opt.use_bf16_storage
    if precision == "fp32":
        for name in halves:
            setattr(net.opt, name, False)
    net.load_param(f"{model}.ncnn.param")
    net.load_model(f"{model}.ncnn.bin")
    given = ncnn.Mat(x[0]).clone()  # the first only borrows the memory of x

    def run() -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", given)
            return np.array(extractor.extract("out0")[1])[None]

    return run


def open_litert(model: str, precision: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    import litert  # the file beside this one

    return litert.open_litert(model, x, 1, whole=precision != "int8, own hard-swish")


MODULES = {"onnxruntime": "onnxruntime", "ncnn": "ncnn", "LiteRT": "litert"}
OPENERS = {"onnxruntime": open_onnxruntime, "ncnn": open_ncnn, "LiteRT": open_litert}


def main(
    runtime: str, precision: str, model: str, source: str, output: str, marks: str, inferences: str
) -> None:
    open_runtime = OPENERS[runtime]
    x, library = np.load(source), ctypes.CDLL(marks)
    if int(inferences) == 0:
        importlib.import_module(MODULES[runtime])
        library.mark_start()
        y = open_runtime(model, precision, x)()
        library.mark_end()
        np.save(output, y)
        return
    run = open_runtime(model, precision, x)
    for _ in range(int(inferences)):
        library.mark_start()
        y = run()
        library.mark_end()
    np.save(output, y)


main(*sys.argv[1:])
