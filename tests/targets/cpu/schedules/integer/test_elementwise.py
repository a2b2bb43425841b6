"""Sums, products, tables, means, and the ways to and from fp32, against numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.lowering.quantization import Quantization
from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules.integer import elementwise as kernels
from mbv3c.targets.cpu.schedules.integer.arithmetic import GROUP
from mbv3c.targets.cpu.schedules.integer.elementwise import IntegerElementwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from tests.targets.cpu.schedules.integer.kernels import (
    MACHINES,
    ZEROS,
    Array,
    Call,
    check,
    integers,
    narrowed,
    outputs,
    rounded,
    table_for,
)

SIZES = st.sampled_from([1, 3, 8, 21, 40, 67])
SCALES = st.sampled_from([0.0078125, 0.0137, 0.05, 0.11])
_NEAR = 1e-4  # of a step: one fused multiply-add rounds once, numpy twice


def elementwise(shape: IntegerElementwise, machine: Processor) -> Call:
    b, p, c = shape.batch, shape.places, shape.channels
    first = integers(b, p, c)
    inputs: tuple[Array, ...] = (first,)
    a = first.astype(np.int64) - shape.first.zero_point
    scale, exact = shape.first.scale, a * (shape.first.scale / shape.scale)
    sums = a
    if shape.second is not None:
        second = integers(b, 1 if shape.per_channel else p, c, seed=1)
        inputs = (first, second)
        other = second.astype(np.int64) - shape.second.zero_point
        if shape.operator == "multiply":
            sums, scale = a * other, shape.first.scale * shape.second.scale
            exact = sums * (scale / shape.scale)
        else:
            exact = exact + other * (shape.second.scale / shape.scale)
    if shape.operator == "add":
        wanted = narrowed(exact.astype(np.float32), shape.output)
    else:
        wanted = rounded(sums, np.float32(scale / shape.scale), shape.output)
    near = np.abs(exact - np.floor(exact) - 0.5) < _NEAR
    function = kernels.generate(shape, machine)
    ties = near if shape.operator == "add" else None
    return Call(function, (*inputs, *table_for(shape.output)), wanted, ties)


@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    places=st.sampled_from([1, 5, 49]),
    channels=SIZES,
    operator=st.sampled_from(["add", "multiply", ""]),
    per_channel=st.booleans(),
    scales=st.tuples(SCALES, SCALES, SCALES),
    zeros=st.tuples(ZEROS, ZEROS),
    output=outputs(),
)
def test_sums_and_products(
    batch: int,
    places: int,
    channels: int,
    operator: str,
    per_channel: bool,
    scales: tuple[float, float, float],
    zeros: tuple[int, int],
    output: Requantization,
) -> None:
    if operator == "add":  # a tie would become any two entries of the table
        output = Requantization(output.zero, output.low, output.high)
    second = Quantization(scales[1], zeros[1]) if operator else None
    shape = IntegerElementwise(
        batch,
        places,
        channels,
        operator,
        per_channel and bool(operator),
        Quantization(scales[0], zeros[0]),
        second,
        scales[2],
        output,
    )
    check([elementwise(shape, machine) for machine in MACHINES])


@settings(max_examples=5, deadline=None)
@given(size=SIZES, zero=ZEROS, scale=SCALES)
def test_to_and_from_fp32_and_tables(size: int, zero: int, scale: float) -> None:
    q, output = integers(size), Requantization(zero)
    x = (np.random.default_rng(0).standard_normal(size) * 150 * scale).astype(np.float32)
    x[: size // 2] = (np.rint(x[: size // 2] / scale) + 0.5) * scale  # ties
    quantized = narrowed(x / np.float32(scale), output)
    values = (q.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    table = integers(256, seed=6)
    calls = []
    for machine in MACHINES:
        to = kernels.generate_quantize(kernels.Quantize(size, scale, output), machine)
        back = kernels.generate_dequantize(
            kernels.Dequantize(size, Quantization(scale, zero)), machine
        )
        found = kernels.generate_look_up(kernels.LookUp(size), machine)
        calls += [
            Call(to, (x,), quantized),
            Call(back, (q,), values),
            Call(found, (q, table), table[q.view(np.uint8)]),
        ]
    check(calls)


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    channels=st.sampled_from([1, 3, 4]),
    places=st.sampled_from([1, 7, 16, 37, 121]),
    zero=ZEROS,
    scale=SCALES,
)
def test_an_image_gets_four_channels(
    batch: int, channels: int, places: int, zero: int, scale: float
) -> None:
    x = np.random.default_rng(0).standard_normal((batch, channels, places)).astype(np.float32)
    wanted = np.zeros((batch, places, GROUP), np.int8)
    wanted[..., :channels] = narrowed(x / np.float32(scale), Requantization(zero)).transpose(
        0, 2, 1
    )
    shape = kernels.QuantizeImage(batch, channels, places, scale, Requantization(zero))
    check(
        [
            Call(kernels.generate_quantize_image(shape, machine), (x,), wanted)
            for machine in MACHINES
        ]
    )


@settings(max_examples=4, deadline=None)
@given(
    batch=st.sampled_from([1, 2]),
    places=st.sampled_from([1, 4, 49, 256, 257, 600]),
    channels=SIZES,
    zero=ZEROS,
    made=ZEROS,
    factor=st.sampled_from([0.37, 1.0, 1.83]),
)
def test_means(
    batch: int, places: int, channels: int, zero: int, made: int, factor: float
) -> None:
    x = integers(batch, places, channels)
    x[:, :, 0] = 127  # the largest sum
    sums = (x.astype(np.int64) - zero).sum(1)
    shape = kernels.IntegerPool(batch, places, channels, factor, zero, Requantization(made))
    wanted = rounded(sums, np.float32(factor / places), shape.output)
    check([Call(kernels.generate_pool(shape, machine), (x,), wanted) for machine in MACHINES])
