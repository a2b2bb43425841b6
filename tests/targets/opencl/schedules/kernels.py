"""What every test of a GPU kernel does: build it, run it on an OpenCL device, compare."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.execution.opencl.runtime import load_runtime
from mbv3c.targets import find_target
from mbv3c.targets.library.target import resolve
from mbv3c.targets.opencl.backend import tvm_target
from mbv3c.targets.opencl.gpus import GPUS, Gpu
from tests.kernel_builds import compiled
from tests.targets.cpu.schedules.kernels import HALF_TOLERANCE, TOLERANCE, Array

MALI = GPUS["mali"].gpu
# Other warps and limits give other work-groups; without registers, larger tiles are legal.
DEVICES = (MALI, GPUS["adreno"].gpu, replace(MALI, warp=4, registers=0))


@dataclass(frozen=True)
class Call:
    """A kernel, what it is given, and what it must write into its last arguments."""

    function: PrimFunc
    inputs: tuple[Array, ...]
    wanted: tuple[NDArray[np.float64] | None, ...]  # None: whatever it keeps there


def check(calls: Sequence[Call]) -> None:
    """Build all kernels at once, run each on the OpenCL device, and compare.

    What they write is NaN before, so that a value which is not written is seen.
    """
    load_runtime()
    target = tvm_target(resolve(find_target("mobile_gpu:generic_opencl")))
    named = {f"kernel_{i}": call.function for i, call in enumerate(calls)}
    module = tvm.IRModule(
        {name: one.with_attr("global_symbol", name) for name, one in named.items()}
    )
    device = tvm.opencl(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        compiled(module, target, tir_pipeline="s_tir").export_library(str(path))
        library = tvm.runtime.load_module(str(path))
        for name, call in zip(named, calls, strict=True):
            shapes = [tuple(int(size) for size in one.shape) for one in call.function.params]
            dtypes = [str(one.dtype) for one in call.function.params]
            rest = slice(len(call.inputs), None)
            empty = [
                np.full(shape, np.nan if dtype.startswith("float") else -1)
                for shape, dtype in zip(shapes[rest], dtypes[rest], strict=True)
            ]
            tensors = [
                tvm.runtime.tensor(array.reshape(shape).astype(dtype), device)
                for array, shape, dtype in zip([*call.inputs, *empty], shapes, dtypes, strict=True)
            ]
            library[name](*tensors)
            allowed = HALF_TOLERANCE if "float16" in dtypes else TOLERANCE
            for tensor, wanted in zip(tensors[len(call.inputs) :], call.wanted, strict=True):
                if wanted is not None:
                    got = tensor.numpy().astype(np.float64).reshape(wanted.shape)
                    scale = max(1.0, float(np.abs(wanted).max()))
                    np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=allowed)


def devices() -> st.SearchStrategy[Gpu]:
    return st.sampled_from(DEVICES)


def dtypes() -> st.SearchStrategy[str]:
    return st.sampled_from(["float32", "float16"])


def each_device() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gpu", DEVICES, ids=["mali", "adreno", "narrow"])
