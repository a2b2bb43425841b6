"""Matching what ran with the plan."""

from typing import Any, cast

import pytest

from mbv3c.errors import ToolError
from mbv3c.lowering.plan import Step
from mbv3c.speed.profile import counted_kernels, timed_calls
from mbv3c.targets.backend import Call


def call(kernel: str, node: str, madds: int) -> Call:
    kind = kernel.rpartition("_")[0]
    return Call(kernel, Step(kind, (node,), cast(Any, None), (), (), madds))


CALLS = (call("pointwise_1", "a", 1000), call("pool_1", "b", 0), call("pointwise_1", "c", 3000))


def test_times_are_medians_per_call_in_order() -> None:
    run = [("vm.builtin", 9.0), ("pointwise_1", 1.0), ("pool_1", 4.0), ("pointwise_1", 3.0)]
    slow = [(name, 100.0) for name, _ in run]
    found = timed_calls(CALLS, [run, slow, run])
    assert [(one.kernel, one.nodes, one.us) for one in found] == [
        ("pointwise_1", ("a",), 1.0),
        ("pool_1", ("b",), 4.0),
        ("pointwise_1", ("c",), 3.0),
    ]
    assert [one.share for one in found] == [0.125, 0.5, 0.375]
    assert [one.gflops for one in found] == [2.0, 0.0, 2.0]


def test_another_order_than_the_plan_is_an_error() -> None:
    with pytest.raises(ToolError, match="other kernels than the plan"):
        timed_calls(CALLS, [[("pool_1", 1.0), ("pointwise_1", 1.0), ("pointwise_1", 1.0)]])


def test_instructions_of_all_functions_of_a_kernel_are_summed() -> None:
    symbols = {
        "__tvm_ffi_pointwise_1": 100,
        "pointwise_1_compute_": 1900,
        "pool_1_compute_": 500,
        "memcpy": 250,
        "": 1250,
    }
    found = counted_kernels(CALLS, symbols)
    assert [(one.kernel, one.calls, one.instructions) for one in found] == [
        ("pointwise_1", 2, 2000),
        ("pool_1", 1, 500),
        ("elsewhere", 0, 1500),
    ]
    assert found[0].nodes == ("a", "c")
    assert found[0].madds_per_instruction == 2.0
    assert sum(one.share for one in found) == 1.0
    assert {one.estimated_cycles for one in found} == {None}


def test_cycles_of_all_functions_of_a_kernel_are_summed() -> None:
    symbols = {"__tvm_ffi_pointwise_1": 100, "pointwise_1_compute_": 1900, "memcpy": 250}
    cycles = {"__tvm_ffi_pointwise_1": 70, "pointwise_1_compute_": 900, "memcpy": 80, "": 5}
    found = counted_kernels(CALLS, symbols, cycles)
    assert [one.estimated_cycles for one in found] == [970, 0, 85]
