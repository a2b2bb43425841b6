"""What can be timed: a bundle's library, and other runtimes on the bundle's model.

Each opens a model on a given number of threads and returns what runs one inference of it, always
from Python and on an input that is there already. Of an int8 bundle the others run the quantized
model, too; else they compute in fp32, whatever the bundle's precision is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY, MODEL, QUANTIZED
from mbv3c.errors import UsageError
from mbv3c.execution.opencl.runtime import device_info, load_runtime

Run = Callable[[], object]
Open = Callable[[Path, NDArray[np.float32], int, str], Run]


@dataclass(frozen=True)
class Contender:
    """A runtime.

    Attributes:
        open: function from a bundle, an input, a number of threads and TVM's name of a device,
            which only the bundle's library can use, to what runs it.
        module: the Python module that it needs.
        package: the package that brings the module.
        extra: the extra of mbv3c that brings the package; empty where mbv3c always does.
    """

    open: Open
    module: str
    package: str
    extra: str = ""

    @property
    def version(self) -> str:
        return metadata.version(self.package)


def _open_bundle(bundle: Path, x: NDArray[np.float32], threads: int, device: str) -> Run:
    """Open the library; TVM takes the number of threads from its environment."""
    import tvm
    from tvm import relax

    opened = opened_device(device)
    library = tvm.runtime.load_module(str(bundle / LIBRARY))
    main = relax.VirtualMachine(library, opened)["main"]
    given = tvm.runtime.tensor(x, opened)
    if device == "cpu":
        return lambda: main(given)

    def run() -> None:
        main(given)
        opened.sync()  # launches return at once

    return run


def opened_device(name: str) -> Any:
    """Return a device of TVM's, "cpu" or "opencl"; loads the OpenCL runtime for the latter.

    Raises:
        ToolError: there is no OpenCL device.
    """
    import tvm

    if name == "opencl":
        load_runtime()
        device_info()
    return tvm.device(name)


def _open_onnxruntime(bundle: Path, x: NDArray[np.float32], threads: int, device: str) -> Run:
    """Open the model with every optimisation of onnxruntime, as its users do."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(_model(bundle)), options, providers=["CPUExecutionProvider"]
    )
    given = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, given)


def _open_openvino(bundle: Path, x: NDArray[np.float32], threads: int, device: str) -> Run:
    """Open the model for latency, and in fp32: by itself OpenVINO may choose bf16."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(_model(bundle)), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)


def _model(bundle: Path) -> Path:
    quantized = bundle / QUANTIZED
    return quantized if quantized.exists() else bundle / MODEL


BUNDLE = "bundle"
CONTENDERS = {
    BUNDLE: Contender(_open_bundle, "tvm", "apache-tvm"),
    "onnxruntime": Contender(_open_onnxruntime, "onnxruntime", "onnxruntime"),
    "openvino": Contender(_open_openvino, "openvino", "openvino", "bench"),
}
OTHERS = tuple(name for name in CONTENDERS if name != BUNDLE)


def find_contender(name: str) -> Contender:
    """Look a runtime up that a bundle can be compared with.

    Raises:
        UsageError: it is unknown, or not installed.
    """
    if name not in OTHERS:
        raise UsageError(f"unknown runtime {name!r}; known: {', '.join(OTHERS)}")
    found = CONTENDERS[name]
    if find_spec(found.module) is None:
        wanted = f"mbv3c[{found.extra}]" if found.extra else found.package
        raise UsageError(f"{name} is not installed; install it with `pip install '{wanted}'`")
    return found


def read_input(bundle: Path) -> NDArray[np.float32]:
    """Return the golden input of a bundle."""
    x: NDArray[np.float32] = np.load(bundle / GOLDEN_INPUT)
    return x
