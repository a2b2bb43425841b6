"""Arguments are checked where memory comes from outside, and nowhere else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from mbv3c.execution.host import load_library
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.unchecked import MarkTrusted
from mbv3c.targets.cpu.backend import build
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import AVX2, HOST_TARGET, lower

BYTES = 4 * 4 * 8 * 4


def network(text: str) -> Lowered:
    return lower(graph(f"g (float[1, 8, 4, 4] x) => {text}", w=random(8, 8, 1, 1)), AVX2)


def checked(lowered: Lowered) -> set[str]:
    """Return the kernels that keep their checks."""
    marked = MarkTrusted()(lowered.module)
    names = {str(variable.name_hint) for variable in marked.get_global_vars()} - {"main"}
    return {name for name in names if "mbv3c.trusted" not in (marked[name].attrs or {})}


def test_kernels_within_a_network_are_not_checked() -> None:
    lowered = network("(float[1, 8, 4, 4] y) { a = Conv(x, w) b = Conv(a, w) y = Sigmoid(b) }")
    assert lowered.kernels[0] == "transpose_1"
    assert len(set(lowered.kernels)) > 2
    assert checked(lowered) == {"transpose_1"}


def test_a_kernel_that_is_called_inside_too_is_checked() -> None:
    text = "g (float[1, 8] x) => (float[1, 8] y) { a = Gemm(x, w) b = Gemm(a, w) y = Gemm(b, w) }"
    lowered = lower(graph(text, w=random(8, 8)), AVX2)
    assert lowered.kernels == ("pointwise_1",) * 3
    assert checked(lowered) == {"pointwise_1"}


def test_an_input_in_another_shape_is_still_an_input() -> None:
    lowered = network(
        "(float[1, 8, 4, 4] y, float[1, 8] z) { y = Relu(x) g = GlobalAveragePool(x) "
        "f = Flatten(g) z = Sigmoid(f) }"
    )
    reads = {
        kernel
        for kernel, step in zip(lowered.kernels, lowered.plan.steps, strict=True)
        if "x" in step.arguments
    }
    assert checked(lowered) == reads != set(lowered.kernels)


def test_a_kernel_that_a_branch_calls_is_checked() -> None:
    """No network here has branches: TVM imports no If, and constant ones are gone before."""
    lowered = network("(float[1, 8, 4, 4] y) { a = Conv(x, w) b = Conv(a, w) y = Sigmoid(b) }")
    inner, *_ = sorted(set(lowered.kernels) - checked(lowered))
    main = lowered.module["main"]
    *blocks, last = main.body.blocks
    called = next(
        binding.value
        for block in main.body.blocks
        for binding in block.bindings
        if getattr(getattr(binding.value, "op", None), "name_hint", "") == inner
    )
    branch = relax.SeqExpr([], called)
    chosen = relax.Var("chosen", relax.TensorType((), "bool"))
    both = relax.VarBinding(relax.Var("both", called.ty), relax.If(chosen, branch, branch))
    body = relax.SeqExpr([*blocks, relax.BindingBlock([both]), last], main.body.body)
    module = lowered.module.clone()
    module["main"] = relax.Function([*main.params, chosen], body, main.ret_ty, main.is_pure)
    changed = replace(lowered, module=module)
    assert checked(changed) == checked(lowered) | {inner}


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Any]:
    """Return a network as a bundle has it: the library's function."""
    path = tmp_path_factory.mktemp("unchecked") / "model.so"
    lowered = network("(float[1, 8, 4, 4] y) { a = Conv(x, w) y = Conv(a, w) }")
    build(lowered.module, HOST_TARGET, path)
    function: Callable[[Any], Any] = relax.VirtualMachine(load_library(path), tvm.cpu())["main"]
    return function


def zeros(*shape: int) -> np.ndarray:
    """Return zeros where TVM lets a tensor begin, at a multiple of 64 bytes."""
    memory = np.zeros(BYTES + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + BYTES].view(np.float32).reshape(shape)


def behind(offset: int) -> Any:
    """Return a tensor that says how many bytes behind its address it begins."""
    whole = tvm.runtime.tensor(np.zeros(1024, np.float32))
    return whole._create_view((1, 8, 4, 4), "float32", offset)


def test_what_fits_is_taken(main: Callable[[Any], Any]) -> None:
    assert main(tvm_ffi.from_dlpack(zeros(1, 8, 4, 4))).shape == (1, 8, 4, 4)
    assert main(behind(0)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: tvm.runtime.tensor(zeros(1, 8, 16)), "ndim 4 but get 3"),
        (lambda: tvm.runtime.tensor(zeros(1, 4, 8, 4)), "shape"),
        (
            lambda: tvm.runtime.tensor(zeros(1, 8, 4, 4).view(np.int32)),
            "dtype float32 but get int32",
        ),
        (lambda: tvm_ffi.from_dlpack(zeros(1, 4, 4, 8).transpose(0, 3, 1, 2)), "compact tensor"),
        (lambda: behind(64), "byte_offset"),
        (lambda: 3.0, "expect a Tensor"),
    ],
    ids=["rank", "shape", "type", "strides", "offset", "a number"],
)
def test_what_does_not_fit_is_refused(
    given: Callable[[], Any], said: str, main: Callable[[Any], Any]
) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError), match=said):
        main(given())
