"""Kernels as plain C functions."""

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T  # noqa: N812

from mbv3c.c_library.raw_pointers import raw_kernels

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}


@T.prim_func
def two_loops(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
    T.func_attr({"mbv3c.kernel": True, "tirx.noalias": True})
    for i in T.parallel(T.int64(8)):
        for j in T.serial(T.int64(8)):
            y[i * T.int64(8) + j] = x[i * T.int64(8) + j] * T.float32(2)
    for i in T.serial(T.int64(64)):
        y[i] = y[i] + T.float32(1)


def test_a_loop_for_several_cores_is_a_function_of_its_own() -> None:
    target = tvm.target.Target(TARGET)
    raw = raw_kernels(tvm.IRModule({"k": two_loops}), target, "net")
    segments = raw.kernels["k"].segments
    assert [(each.function, each.turns) for each in segments] == [
        ("net_k_0", 8),
        ("net_k_1", None),
    ]
    text = tvm.get_global_func("target.build.llvm")(raw.module, target).inspect_source("ll")
    assert "TVMBackend" not in text
    assert all(f"@{each.function}(" in text for each in segments)


@pytest.mark.parametrize(("size", "scratch"), [(2048, (8192,)), (16, ())])
def test_only_what_is_too_large_for_a_stack_becomes_a_parameter(
    size: int, scratch: tuple[int, ...]
) -> None:
    @T.prim_func
    def twice(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):
        T.func_attr({"mbv3c.kernel": True, "tirx.noalias": True})
        between = T.alloc_buffer((size,), "float32")
        for i in T.serial(T.int64(size)):
            between[i] = x[i] * T.float32(2)
        for i in T.serial(T.int64(size)):
            y[i] = between[T.int64(size - 1) - i]

    raw = raw_kernels(tvm.IRModule({"k": twice}), tvm.target.Target(TARGET), "net")
    assert raw.kernels["k"].scratch == scratch
    assert np.sum([len(each.params) for each in raw.module.functions.values()]) == 2 + len(scratch)
