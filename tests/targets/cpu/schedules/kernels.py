"""What every test of a kernel does: build it for this machine, run it, compare with float64.

The kernels are portable, so those that are written for other processors run here, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, LINEAR, RELU, Activation
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.targets import find_target
from mbv3c.targets.cpu.cores import CORES, Processor
from mbv3c.targets.library.target import resolve, tvm_target
from tests.kernel_builds import compiled

Array = NDArray[np.float32]

# Sums of some hundred products of numbers about 1, rounded to 24 bits in another order: the error
# stays below a hundred half units of the last place of the largest partial sum.
TOLERANCE = 1e-5
# 11 bits instead of 24, and sums of up to a hundred products about 1 in them.
HALF_TOLERANCE = 5e-3

NEON = CORES["cortex-a76"]
AVX2 = replace(NEON, vector_bytes=32, registers=16, lane_operands=False)
AVX512 = replace(AVX2, vector_bytes=64, registers=32, partial_cost=0.5)
MACHINES = (NEON, AVX2, AVX512)
# Every kernel is worth the other cores, so that the parallel loops are really taken.
PARALLEL = tuple(
    replace(machine, cores=cores, parallel_madds=0)
    for machine, cores in zip(MACHINES, (4, 2, 3), strict=True)
)

ACTIVATIONS = (
    LINEAR,
    RELU,
    HARD_SIGMOID,
    HARD_SWISH,
    Activation(low=0.0, high=6.0),
    Activation(high=0.25),
    Activation(low=-0.5, high=0.5, scale=0.2, shift=-0.25),
)
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 16, 21, 24, 31, 40, 67])
PLACES = st.sampled_from([1, 2, 3, 5, 7, 12, 17, 49])

_GUARD = 64  # values before and after each tensor, so that it begins at a multiple of 64 bytes


@dataclass(frozen=True)
class Call:
    """A kernel, what it is given, and what must come out."""

    function: PrimFunc
    inputs: tuple[Array, ...]
    wanted: NDArray[np.float64]
    in_place: bool = False


def check(calls: Sequence[Call], tolerance: float | None = None) -> None:
    """Build all kernels at once, run each, and compare.

    Every tensor lies between NaNs, of integers between large numbers: what reads beyond its
    end goes wrong, and what writes there is seen.
    """
    named = {f"kernel_{i}": call.function for i, call in enumerate(calls)}
    module = tvm.IRModule(
        {name: one.with_attr("global_symbol", name) for name, one in named.items()}
    )
    library = compiled(module, tvm_target(resolve(find_target("host_cpu"))))
    for name, call in zip(named, calls, strict=True):
        shapes = [tuple(int(size) for size in one.shape) for one in call.function.params]
        dtypes = [str(one.dtype) for one in call.function.params]
        empty = [] if call.in_place else [np.full(shapes[-1], np.nan, np.float32)]
        memory = [
            _guarded(array.astype(dtype), shape)
            for array, shape, dtype in zip([*call.inputs, *empty], shapes, dtypes, strict=True)
        ]
        allowed = tolerance or (HALF_TOLERANCE if "float16" in dtypes else TOLERANCE)
        inside = [
            whole[_GUARD:-_GUARD].reshape(s) for whole, s in zip(memory, shapes, strict=True)
        ]
        library[name](*[tvm.runtime.from_dlpack(one) for one in inside])
        for whole in memory:
            guard = _guard(whole.dtype)
            np.testing.assert_array_equal(whole[:_GUARD], guard)
            np.testing.assert_array_equal(whole[-_GUARD:], guard)
        got = inside[0 if call.in_place else -1].reshape(call.wanted.shape).astype(np.float64)
        scale = max(1.0, float(np.abs(call.wanted).max()))
        np.testing.assert_allclose(got / scale, call.wanted / scale, rtol=0, atol=allowed)
        for given, now in zip(call.inputs[call.in_place :], inside[call.in_place :], strict=False):
            np.testing.assert_array_equal(given.reshape(now.shape), now)


def random(*shape: int, seed: int = 0) -> Array:
    """Return numbers that half precision holds, too."""
    numbers = np.random.default_rng(seed).standard_normal(shape)
    return numbers.astype(np.float16).astype(np.float32)


def activate(x: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    """Apply an activation in float64."""
    y = x * activation.scale + activation.shift
    y = np.clip(y, activation.low, activation.high)
    return x * y if activation.gated else y


def nhwc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def convolve(
    x: Array, weights: Array, bias: Array, down: Axis, right: Axis, groups: int = 1
) -> NDArray[np.float64]:
    """Convolve [B, C, H, W] with [N, C / groups, R, S] in float64, window by window."""
    padded = np.pad(
        x.astype(np.float64),
        ((0, 0), (0, 0), (down.before, down.after), (right.before, right.after)),
    )
    n, per_group, _, _ = weights.shape
    y = np.zeros((len(x), n, down.outputs, right.outputs))
    for r in range(down.taps):
        for s in range(right.taps):
            top, left = r * down.dilation, s * right.dilation
            seen = padded[
                :,
                :,
                top : top + down.stride * (down.outputs - 1) + 1 : down.stride,
                left : left + right.stride * (right.outputs - 1) + 1 : right.stride,
            ]
            for group in range(groups):
                mine = slice(group * n // groups, (group + 1) * n // groups)
                channels = seen[:, group * per_group : (group + 1) * per_group]
                y[:, mine] += np.einsum("bcpq,nc->bnpq", channels, weights[mine, :, r, s])
    return y + bias.astype(np.float64)[:, None, None]


def _guard(dtype: np.dtype[Any]) -> float:
    """Return what lies before and after a tensor: NaN, or a large integer."""
    return np.nan if dtype.kind == "f" else 111


def _guarded(array: Array, shape: tuple[int, ...]) -> Array:
    size = int(np.prod(shape))
    aligned = 64 // array.itemsize  # kernels may assume 64-byte alignment
    whole = np.full(size + 2 * _GUARD + aligned, _guard(array.dtype), array.dtype)
    first = -(whole.ctypes.data // array.itemsize) % aligned
    whole = whole[first : first + size + 2 * _GUARD]
    whole[_GUARD:-_GUARD] = array.ravel()
    return whole


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Draw an axis with at least one output; maps may be smaller than the kernel."""
    taps, stride, dilation = (
        draw(st.sampled_from(options)) for options in ((1, 2, 3, 5), (1, 2, 3), (1, 1, 2))
    )
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    least = max(1, dilation * (taps - 1) + 1 - before - after)
    return Axis(least + draw(st.integers(0, 9)), taps, stride, dilation, before, after)


def machines() -> st.SearchStrategy[tuple[Processor, ...]]:
    return st.sampled_from([MACHINES, PARALLEL])
