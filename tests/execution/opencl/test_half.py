"""Half arithmetic, emulated on PoCL where it lacks cl_khr_fp16, against numpy's float16."""

from pathlib import Path

import numpy as np
import pytest
import tvm

from mbv3c.execution.opencl.runtime import counters, device_info
from tests.execution.opencl import modules

pytestmark = pytest.mark.usefixtures("opencl")

DEVICE = tvm.device("opencl", 0)
COUNT = 4096
WIDTHS = ["", "2", "4", "8", "16"]
FEW_WIDTHS = ["", "4", "16"]  # each kernel takes PoCL a quarter of a second


def _halves() -> np.ndarray:
    """Return 4096 halves of every size: subnormal, huge, both zeros and infinities, no NaN."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 16, 2 * COUNT).astype(np.uint16).view(np.float16)
    return np.concatenate([np.array([0.0, -0.0, np.inf, -np.inf]), x[~np.isnan(x)]])[
        :COUNT
    ].astype(np.float16)


X, Y = _halves(), np.random.default_rng(1).permutation(_halves())


def _run(body: str, width: str, result: str = "half") -> np.ndarray:
    """Run a statement for z, of x and y; each work-item has as many elements as the width."""
    lanes = int(width or 1)
    load = f"vload{width}(i, {{}}_)" if width else "{}_[i]"
    store = f"vstore{width}(z, i, z_);" if width else "z_[i] = z;"
    source = f"""
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
__kernel void f(__global const half* x_, __global const half* y_, __global {result}* z_) {{
  size_t i = get_global_id(0);
  half{width} x = {load.format("x")}, y = {load.format("y")};
  {result}{width} z;
  {body}
  {store}
}}
"""
    numpy_type = {"half": "float16", "float": "float32", "int": "int32", "short": "int16"}[result]
    z = tvm.runtime.empty((COUNT,), numpy_type, DEVICE)
    inputs = [tvm.runtime.tensor(a, DEVICE) for a in (X, Y)]
    arguments = [modules.buffer(a) for a in inputs]
    function = modules.from_source(source, "f", buffers=3)["f"]
    function(*arguments, modules.buffer(z), COUNT // lanes // 4, 4)
    return z.numpy()


def _wide(function: np.ufunc, *arguments: np.ndarray) -> np.ndarray:
    """Return a function computed in float32 and rounded once to half."""
    with np.errstate(all="ignore"):
        wide = function(*(argument.astype(np.float32) for argument in arguments))
        return wide.astype(np.float16)


def test_emulation_is_counted_and_only_where_it_is_needed() -> None:
    before = counters()
    _run("z = x + (half)0.25f;", "4")
    plain = "__kernel void f(__global float* x) { x[get_global_id(0)] = 1.0f; }"
    x = tvm.runtime.empty((4,), "float32", DEVICE)
    modules.from_source(plain, "f", buffers=1)["f"](modules.buffer(x), 1, 4)
    done = counters().since(before)
    assert done.kernels_built + done.kernels_loaded == 2
    assert done.kernels_emulated == (0 if device_info().has_half else 1)


@pytest.mark.parametrize("width", WIDTHS)
def test_arithmetic_rounds_as_numpy_does(width: str) -> None:
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(_run("z = x + y;", width), X + Y)
        np.testing.assert_array_equal(_run("z = x * y;", width), X * Y)
        np.testing.assert_array_equal(_run("z = x - y;", width), X - Y)
        np.testing.assert_array_equal(_run("z = x / y;", width), X / Y)


@pytest.mark.parametrize("width", FEW_WIDTHS)
def test_minimum_maximum_and_comparisons(width: str) -> None:
    np.testing.assert_array_equal(
        _run("z = min(max(x, y), (half)6.0f);", width), np.minimum(np.maximum(X, Y), np.float16(6))
    )
    condition = "x < y" if not width else f"convert_short{width}(x < y)"
    z = _run(f"z = select(x, y, (short{width})({condition}));", width)
    np.testing.assert_array_equal(z, np.where(X < Y, Y, X))


@pytest.mark.parametrize("width", FEW_WIDTHS)
def test_conversions_keep_and_round_values(width: str) -> None:
    np.testing.assert_array_equal(
        _run(f"z = convert_float{width}(x);", width, "float"), X.astype(np.float32)
    )
    with np.errstate(all="ignore"):
        expected = (X.astype(np.float32) * np.float32(1.0001)).astype(np.float16)
    z = _run(f"z = convert_half{width}(convert_float{width}(x) * 1.0001f);", width)
    np.testing.assert_array_equal(z, expected)
    small = f"clamp(x, (half{width})((half)-30000.0f), (half{width})((half)30000.0f))"
    z = _run(f"z = convert_int{width}({small});", width, "int")
    np.testing.assert_array_equal(z, np.clip(X, -30000, 30000).astype(np.int32))
    z = _run(f"z = convert_half{width}(convert_short{width}({small}));", width)
    rounded = np.trunc(np.clip(X, -30000, 30000)).astype(np.int16).astype(np.float16)
    np.testing.assert_array_equal(z, rounded)


@pytest.mark.parametrize("width", FEW_WIDTHS)
def test_storing_floats_rounds_to_nearest_even(width: str) -> None:
    """Between two halves lie 8192 floats; ties go to the even half."""
    body = f"vstore_half{width}(convert_float{width}(x) * 1.00048828125f, i, z_); return;"
    with np.errstate(all="ignore"):
        expected = (X.astype(np.float32) * np.float32(1.00048828125)).astype(np.float16)
    np.testing.assert_array_equal(_run(body, width), expected)
    z = _run(f"z = vload_half{width}(i, y_);", width, "float")
    np.testing.assert_array_equal(z, Y.astype(np.float32))


@pytest.mark.parametrize("width", FEW_WIDTHS)
def test_functions_are_within_one_unit_of_the_rounded_float(width: str) -> None:
    # OpenCL's own functions in float may be off by some units of float: rarely one of half.
    for name, function in {
        "exp": np.exp,
        "sqrt": np.sqrt,
        "tanh": np.tanh,
        "floor": np.floor,
        "fabs": np.abs,
    }.items():
        z, expected = _run(f"z = {name}(x);", width), _wide(function, X)
        same = (z == expected) | (np.isnan(z) & np.isnan(expected))
        near = np.abs(z.view(np.int16).astype(int) - expected.view(np.int16)) <= 1
        assert (same | near).all(), name
        assert same.mean() > 0.999, name
    z = _run(f"z = fma(x, (half{width})((half)0.5f), x);", width)
    np.testing.assert_array_equal(z, _wide(lambda x: x * np.float32(0.5) + x, X))


def test_three_halves_lie_close_together_in_memory() -> None:
    whole = COUNT // 12 * 12  # three of each of four work-items of a group
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(_run("z = x + y;", "3")[:whole], (X + Y)[:whole])
    z = _run("z = convert_float3(max(x, y));", "3", "float")
    np.testing.assert_array_equal(z[:whole], np.maximum(X, Y)[:whole].astype(np.float32))


@pytest.mark.parametrize("space", ["local", "private"])
def test_vectors_in_other_memory(space: str) -> None:
    """Offsets count vectors, and a vector may begin at any half."""
    declared = "__local half s[4 * 4 + 1];" if space == "local" else "half s[4 * 4 + 1];"
    body = f"{declared} vstore4(x, i % 4, s + 1); z = vload4(i % 4, s + 1);"
    np.testing.assert_array_equal(_run(body, "4"), X)


def test_half_kernel_of_tvm_under_the_emulation(tmp_path: Path) -> None:
    path = modules.export(modules.scale(1.3, COUNT, "float16"), tmp_path / "scale.so")
    y = tvm.runtime.empty((COUNT,), "float16", DEVICE)
    modules.load(path)["scale"](tvm.runtime.tensor(X, DEVICE), y)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y.numpy(), X * np.float16(1.3))
