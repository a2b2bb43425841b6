"""Libraries for this machine: a network, and such as do what a device must survive."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.script import tirx as T  # noqa: N812

# As TVM's modules name their functions: (self, arguments, their number, result) → status.
MISBEHAVIOUR = r"""
extern int pause(void);
extern int fork(void);
int __tvm_ffi_crash(void* self, const void* given, int count, void* result) {
  __builtin_trap();
}
int __tvm_ffi_hang(void* self, const void* given, int count, void* result) {
  fork();  /* a child that must not be left behind either */
  for (;;) pause();
}
int __tvm_ffi_vm_load_executable(void* self, const void* given, int count, void* result) {
  for (;;) pause();
}
"""


def build_misbehaviour(path: Path) -> Path:
    """Build functions `crash` and `hang`, in a library that hangs when it is loaded as a model."""
    source = path.with_suffix(".c")
    source.write_text(MISBEHAVIOUR)
    command = [sys.executable, "-m", "ziglang", "cc", "-nostdlib", "-shared", "-fPIC"]
    options = ["-fno-sanitize=all", "-Wl,--allow-shlib-undefined", "-o", str(path), str(source)]
    subprocess.run([*command, *options], check=True)
    return path


def build_network(path: Path, outputs: int = 1) -> Path:
    """Build a model that gives 2x, and as a second output 4x, of 2 x 3 numbers."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        twice = builder.emit(x + x)
        four = builder.emit(twice + twice)
        builder.emit_func_output(twice if outputs == 1 else [twice, four])
    tvm.compile(builder.get(), target="llvm").export_library(str(path))
    return path


def build_endless(path: Path) -> Path:
    """Build a model of the same input whose inference does not end."""

    @T.prim_func
    def spin(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "spin", "tirx.noalias": True})
        x = T.match_buffer(a, (2, 3), "float32")
        y = T.match_buffer(b, (2, 3), "float32")
        y[0, 0] = x[0, 0]
        for _ in T.serial(T.int64(1) << T.int64(62)):
            y[0, 0] = T.sin(y[0, 0] + T.float32(1.5))

    builder = relax.BlockBuilder()
    spin_var = builder.add_func(spin, "spin")
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        called = relax.call_tir(spin_var, [x], relax.TensorType((2, 3), "float32"))
        builder.emit_func_output(builder.emit(called))
    tvm.compile(builder.get(), target="llvm").export_library(str(path))
    return path


X = np.arange(6, dtype=np.float32).reshape(2, 3)
