"""Small modules for OpenCL: built by TVM, exported, and loaded again, as bundles are."""

import ctypes
import struct
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.script import tirx as T  # noqa: N812

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


def from_source(source: str, kernel: str, buffers: int) -> tvm.runtime.Module:
    """Return a module of one kernel of OpenCL C, in the form in which TVM writes it.

    Its function takes the buffers, then the number of work-groups and of work-items in each.
    """

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    handles = struct.pack("<Q", buffers) + struct.pack("<BBH", 3, 64, 1) * buffers
    tags = struct.pack("<Q", 2) + text("blockIdx.x") + text("threadIdx.x")
    head = text("cl") + struct.pack("<Q", 1) + text(kernel) + text(kernel)
    code = text(f"// Function: {kernel}\n{source}\n")
    load_bytes = tvm.get_global_func("ffi.Module.load_from_bytes.opencl")
    return load_bytes(head + handles + tags + struct.pack("<Q", 0) + code)


def buffer(tensor: tvm.runtime.Tensor) -> ctypes.c_void_p:
    """Return a tensor's memory object, as TVM's host code passes it to kernels."""
    return ctypes.c_void_p(tensor.data_ptr())


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
