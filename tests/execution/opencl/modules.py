"""Small modules for OpenCL: built by TVM, exported, and loaded again, as bundles are."""

from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.script import tirx as T

TARGET = tvm.target.Target({"kind": "opencl"}, host={"kind": "llvm"})
CHANNELS, CLASSES, SIDE = 4, 5, 6


def scale(factor: float, elements: int = 64, dtype: str = "float32") -> tvm.IRModule:
    """Return a module whose `scale` multiplies a vector by a number."""

    @T.prim_func
    def kernel(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "scale", "tirx.noalias": True})
        x = T.match_buffer(a, (elements,), dtype)
        y = T.match_buffer(b, (elements,), dtype)
        for i in T.thread_binding(elements // 16, thread="blockIdx.x"):
            for j in T.thread_binding(4, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    y[i * 16 + j * 4 + k] = x[i * 16 + j * 4 + k] * T.Cast(dtype, factor)

    return tvm.IRModule({"scale": kernel})


def wide(threads: int) -> tvm.IRModule:
    """Return a module whose `wide` runs in one work-group of so many work-items."""

    @T.prim_func
    def kernel(a: T.handle):
        T.func_attr({"global_symbol": "wide", "tirx.noalias": True})
        x = T.match_buffer(a, (threads,), "float32")
        for i in T.thread_binding(threads, thread="threadIdx.x"):
            x[i] = T.float32(1)

    return tvm.IRModule({"wide": kernel})


def export(module: tvm.IRModule, path: Path) -> Path:
    tvm.compile(module, target=TARGET).export_library(str(path))
    return path


def load(path: Path) -> tvm.runtime.Module:
    return tvm.runtime.load_module(str(path))


def classifier(weight: np.ndarray) -> tvm.IRModule:
    """Return a network of several kernels: hard swish, mean over height and width, dense."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, CHANNELS, SIDE, SIDE), "float32"))
    with builder.function("main", [x]):
        gate = relax.op.clip(x / relax.const(6.0) + relax.const(0.5), 0.0, 1.0)
        mean = builder.emit(relax.op.mean(x * gate, axis=[2, 3]))
        builder.emit_func_output(builder.emit(relax.op.matmul(mean, relax.const(weight))))
    return builder.get()


def classify(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mean = (x * np.clip(x / 6 + 0.5, 0, 1)).mean(axis=(2, 3), dtype=np.float32)
    result: np.ndarray = mean @ weight
    return result
