"""What every test of an integer kernel does: exact integers in numpy, rounded once, and equal.

The kernels multiply a sum by an fp32 factor and round that: numpy does the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.targets import find_target
from mbv3c.targets.cpu.cores import processor_of
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.library.target import resolve, tvm_target
from tests.kernel_builds import compiled

Array = NDArray[Any]

TARGET = resolve(find_target("host_cpu"))
HOST = processor_of(TARGET)
# The loops of other processors without their instructions, which this machine has not.
LANES = replace(HOST, vector_bytes=16, registers=32, lane_operands=True, integers="portable")
PLAIN = replace(HOST, integers="portable")
SHARED = replace(HOST, cores=2, parallel_madds=0)
MACHINES = (HOST, LANES, PLAIN, SHARED)
# x86 without dot products of int8, and with those of 256 bits and of 512. What this machine has
# not is written in instructions of all machines, where `standing_in` is.
AVX2 = replace(PLAIN, vector_bytes=32, registers=16, integers="pairs")
AVX512 = replace(PLAIN, vector_bytes=64, registers=32, integers="pairs")
AVX_VNNI = replace(AVX2, integers="vnni")
VNNI = replace(AVX512, integers="vnni")
WITHOUT_AVX2 = pytest.mark.skipif(
    TARGET.arch != "x86_64" or HOST.vector_bytes < 32, reason="this processor has no AVX2"
)

ZEROS = st.sampled_from([-128, -5, 0, 31, 127])
_GUARD = 64  # values before and after each tensor
_UNTOUCHED = 85


@dataclass(frozen=True)
class Call:
    """A kernel, what it is given, what must come out, and where either neighbour may."""

    function: PrimFunc
    inputs: tuple[Array, ...]
    wanted: Array
    ties: NDArray[np.bool_] | None = None


@st.composite
def outputs(draw: st.DrawFn) -> Requantization:
    """Draw how sums become int8: with and without a clamp and a table."""
    low, high = draw(st.sampled_from([(-128, 127), (-128, 90), (-20, 127), (3, 44)]))
    return Requantization(draw(ZEROS), low, high, draw(st.booleans()))


def check(calls: Sequence[Call]) -> None:
    """Build all kernels at once, run each, and compare; nothing beside the output may change."""
    named = {f"kernel_{i}": call.function for i, call in enumerate(calls)}
    module = tvm.IRModule(
        {name: one.with_attr("global_symbol", name) for name, one in named.items()}
    )
    library = compiled(module, tvm_target(TARGET))
    for name, call in zip(named, calls, strict=True):
        shapes = [tuple(int(size) for size in one.shape) for one in call.function.params]
        dtypes = [str(one.dtype) for one in call.function.params]
        given = [*call.inputs, np.full(shapes[-1], _UNTOUCHED)]
        assert len(given) == len(shapes)
        memory = [
            _guarded(array.astype(dtype), shape)
            for array, shape, dtype in zip(given, shapes, dtypes, strict=True)
        ]
        inside = [
            whole[_GUARD:-_GUARD].reshape(s) for whole, s in zip(memory, shapes, strict=True)
        ]
        library[name](*[tvm.runtime.from_dlpack(one) for one in inside])
        for whole in memory:
            assert (whole[:_GUARD] == _UNTOUCHED).all()
            assert (whole[-_GUARD:] == _UNTOUCHED).all()
        for before, after in zip(call.inputs, inside[:-1], strict=True):
            np.testing.assert_array_equal(before.reshape(after.shape), after)
        apart = np.abs(inside[-1].reshape(call.wanted.shape).astype(np.float64) - call.wanted)
        free = np.zeros(apart.shape, np.bool_) if call.ties is None else call.ties
        assert not apart[~free].any()
        assert apart.max(initial=0) <= 1


def _guarded(array: Array, shape: tuple[int, ...]) -> Array:
    size = int(np.prod(shape))
    aligned = 64 // array.itemsize  # kernels may assume 64-byte alignment
    whole = np.full(size + 2 * _GUARD + aligned, _UNTOUCHED, array.dtype)
    first = -(whole.ctypes.data // array.itemsize) % aligned
    whole = whole[first : first + size + 2 * _GUARD]
    whole[_GUARD:-_GUARD] = array.ravel()
    return whole


def integers(*shape: int, seed: int = 0) -> NDArray[np.int8]:
    """Return all of int8, its ends more often than by chance."""
    rng = np.random.default_rng(seed)
    found = rng.integers(-128, 128, shape)
    ends = rng.choice([-128, 127], shape)
    return np.where(rng.random(shape) < 0.1, ends, found).astype(np.int8)


def weights(*shape: int, seed: int = 1) -> NDArray[np.int8]:
    """Return what quantized weights are: -127 to 127."""
    return np.maximum(integers(*shape, seed=seed), -127)


def biases(size: int) -> NDArray[np.int64]:
    return np.random.default_rng(2).integers(-20000, 20000, size)


def factors(size: int, products: int) -> NDArray[np.float32]:
    """Return one factor per channel, such that most sums of so many products do not saturate."""
    spread = np.exp(np.random.default_rng(3).uniform(-2.0, 1.0, size))
    return (spread * 60 / (74 * 74 * np.sqrt(products))).astype(np.float32)


def table_for(output: Requantization) -> tuple[Array, ...]:
    """Return the argument of a kernel with a table: entries in any order."""
    return (integers(256, seed=4),) if output.lookup else ()


def narrowed(scaled: NDArray[np.float32], output: Requantization) -> NDArray[np.int8]:
    """Round as QuantizeLinear does, clamp, and look up."""
    assert scaled.dtype == np.float32
    q = np.clip(np.rint(scaled).astype(np.int64) + output.zero, output.low, output.high)
    if output.lookup:
        return table_for(output)[0][q.astype(np.int8).view(np.uint8)]
    return q.astype(np.int8)


def rounded(
    sums: Array, factor: NDArray[np.float32] | np.float32, output: Requantization
) -> NDArray[np.int8]:
    """Make int8 of exact sums, channels last."""
    assert np.abs(sums).max(initial=0) < 2**31
    return narrowed(sums.astype(np.int64).astype(np.float32) * factor, output)


def in_places(
    sums: Array, factors: NDArray[np.int32], output: Requantization
) -> NDArray[np.int64]:
    """Round exact sums, channels last, by fixed-point factors, without a table."""
    cut = sums.astype(np.int64) * factors >> 31
    places = cut + (output.zero << output.shift) + (1 << output.shift >> 1) >> output.shift
    return places.clip(output.low, output.high)
