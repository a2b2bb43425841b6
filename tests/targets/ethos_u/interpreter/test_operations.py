"""Small graphs, compiled by vela and interpreted: every bit as in the TOSA reference model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import ACCELERATORS, UnsupportedError, decode
from tests.targets.ethos_u.interpreter import tosa_graphs
from tests.targets.ethos_u.interpreter.tosa_graphs import (
    INT8,
    INT16,
    INT32,
    INT48,
    Graph,
    NanMode,
    Resize,
    Rounding,
    compile_for,
    random_inputs,
    reference,
)

NAMES = [one.name for one in ACCELERATORS]
FEW = ["ethos-u55-32", "ethos-u65-256"]
SHAPE = (1, 6, 7, 20)

Built = tuple[Graph, Any]


def random(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def convolution(
    shape: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, int],
    pad: tuple[int, ...] = (0, 0, 0, 0),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    depthwise: bool = False,
    out: Any = INT8,
    rounding: Any = Rounding.SINGLE_ROUND,
    seed: int = 1,
) -> Built:
    rng, graph = random(seed), Graph()
    x = graph.input(shape)
    sizes = (*kernel, shape[3], 1) if depthwise else (outputs, *kernel, shape[3])
    bias = rng.integers(-20000, 20000, outputs)
    sums = graph.conv(x, rng.integers(-127, 128, sizes), bias, pad, stride, dilation, 3, depthwise)
    products = kernel[0] * kernel[1] * (1 if depthwise else shape[3])
    scales = rng.uniform(0.3, 1, outputs) / (60 * np.sqrt(products))
    return graph, graph.rescale(sums, scales, out, 0, 0 if out == INT16 else -5, rounding)


CONVOLUTIONS: dict[str, Callable[[], Built]] = {
    "1x1": lambda: convolution((1, 5, 7, 16), 24, (1, 1)),
    "1x1 of many channels": lambda: convolution((1, 3, 3, 200), 72, (1, 1)),
    "fully connected": lambda: convolution((1, 1, 1, 576), 130, (1, 1)),
    "stem, stride 2, odd pads": lambda: convolution(
        (1, 16, 15, 3), 16, (3, 3), (1, 0, 1, 1), (2, 2)
    ),
    "3x3": lambda: convolution((1, 9, 8, 20), 17, (3, 3), (1, 1, 1, 1)),
    "7x7 of few channels": lambda: convolution((1, 14, 14, 4), 8, (7, 7), (3, 3, 3, 3)),
    "9x9, parts of a kernel": lambda: convolution((1, 12, 12, 4), 8, (9, 9)),
    "dilated": lambda: convolution((1, 9, 9, 10), 8, (3, 3), (2, 2, 2, 2), dilation=(2, 2)),
    "stride 3": lambda: convolution((1, 12, 12, 10), 8, (3, 3), stride=(3, 3)),
    "depthwise 3x3": lambda: convolution((1, 9, 9, 24), 24, (3, 3), (1, 1, 1, 1), depthwise=True),
    "depthwise 5x5 stride 2": lambda: convolution(
        (1, 10, 10, 72), 72, (5, 5), (2, 1, 2, 1), (2, 2), depthwise=True
    ),
    "depthwise 3x3 stride 2": lambda: convolution(
        (1, 10, 10, 7), 7, (3, 3), (0, 1, 0, 1), (2, 2), depthwise=True
    ),
    "depthwise 5x5": lambda: convolution((1, 9, 9, 40), 40, (5, 5), (2, 2, 2, 2), depthwise=True),
    "to 16 bits": lambda: convolution((1, 5, 7, 16), 24, (3, 3), (1, 1, 1, 1), out=INT16),
    "double rounding": lambda: convolution(
        (1, 5, 7, 16), 24, (1, 1), rounding=Rounding.DOUBLE_ROUND
    ),
}


def of_16_bits(depthwise: bool) -> Built:
    """Convolve 16-bit elements, in 48 bits, with the reduced scales that TOSA has for them."""
    rng, graph = random(), Graph()
    x = graph.input((1, 5, 7, 20), INT16)
    sizes = (3, 3, 20, 1) if depthwise else (20, 3, 3, 20)
    operands = [graph.const(rng.integers(-127, 128, sizes), INT8)]
    operands += [graph.const(rng.integers(-20000, 20000, 20), INT48)]
    operands += [graph.const([0], INT16), graph.const([0], INT8)]
    name = "DEPTHWISE_CONV2D" if depthwise else "CONV2D"
    geometry = ([1, 1, 1, 1], [1, 1], [1, 1], False, INT48)
    sums = graph.op(name, [x, *operands], (1, 5, 7, 20), INT48, *geometry)
    shift = 26 if depthwise else 28
    scale = [
        graph.const([20000 + one for one in range(20)], INT16),
        graph.const([shift] * 20, INT8),
    ]
    zeros = [graph.const([0], INT48), graph.const([0], INT16)]
    mode = (False, Rounding.SINGLE_ROUND, True, False, False)
    return graph, graph.op("RESCALE", [sums, *scale, *zeros], sums.shape, INT16, *mode)


def table(graph: Graph, x: Any, seed: int = 1) -> Any:
    values = random(seed).integers(-128, 128, 256)
    return graph.op("TABLE", [x, graph.const(values, INT8)], x.shape, INT8)


def alone(build: Callable[[Graph, Any], Any], shape: tuple[int, ...], dtype: Any = INT8) -> Built:
    graph = Graph()
    x = graph.input(shape, dtype)
    return graph, build(graph, x)


def fused_table(clamp: bool = False) -> Built:
    graph, x = convolution((1, 5, 7, 16), 24, (3, 3), (1, 1, 1, 1))
    if clamp:
        x = graph.op("CLAMP", [x], x.shape, INT8, [0xD0], [0x40], NanMode.PROPAGATE)
    return graph, table(graph, x)


def many_tables() -> Built:
    """Have more tables than slots, and convolutions between them that may overwrite them."""
    rng, graph = random(), Graph()
    x = graph.input((1, 4, 5, 20))
    for number in range(10):
        x = table(graph, x, number % 4)
        if number % 3 == 2:
            weights, bias = rng.integers(-127, 128, (20, 1, 1, 20)), rng.integers(-99, 99, 20)
            x = graph.rescale(graph.conv(x, weights, bias), np.full(20, 1 / 300))
    return graph, x


def table_of_16_bits(graph: Graph, x: Any) -> Any:
    values = np.linspace(-20000, 20000, 513).astype(int)
    looked_up = graph.op("TABLE", [x, graph.const(values, INT16)], x.shape, INT32)
    return graph.rescale(looked_up, 1 / 128, INT16)


def two_inputs(
    name: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = (SHAPE, SHAPE),
    scales: tuple[float, float, float] = (0.02, 0.03, 0.04),
    dtype: Any = INT8,
    rounding: Any = Rounding.SINGLE_ROUND,
) -> Built:
    """Add, subtract or multiply quantized numbers as the lowering to TOSA spells it."""
    graph = Graph()
    inputs = [graph.input(shape, dtype) for shape in shapes]
    zeros = (0, 0, 0) if dtype == INT16 else (4, -9, 6)
    product = name == "MUL"
    unit = 1 << (15 if dtype == INT16 else 20)
    top = 2 * max(scales[:2])
    wide = [
        graph.rescale(x, 1.0 if product else unit * scale / top, INT32, zero, 0, rounding)
        for x, scale, zero in zip(inputs, scales[:2], zeros[:2], strict=True)
    ]
    shape = np.broadcast_shapes(*shapes)
    operands = [*wide, graph.const([0], INT8)] if product else wide
    result = graph.op(name, operands, shape, INT32)
    back = (1 / 150 if dtype == INT8 else 1 / 40000) if product else top / (unit * scales[2])
    return graph, graph.rescale(result, back, dtype, 0, zeros[2], rounding)


def of_32_bits(name: str, *attributes: Any, shifts: bool = False, unary: bool = False) -> Built:
    graph = Graph()
    operands = [graph.input(SHAPE, INT32)]
    if shifts:
        operands.append(graph.const(random().integers(0, 12, SHAPE), INT32))
    elif not unary:
        operands.append(graph.input(SHAPE, INT32))
    return graph, graph.op(name, operands, SHAPE, INT32, *attributes)


def rescaled(source: Any, to: Any, scale: Any, rounding: Any = Rounding.SINGLE_ROUND) -> Built:
    zeros = [0 if dtype != INT8 else zero for dtype, zero in ((source, 3), (to, -8))]
    return alone(lambda graph, x: graph.rescale(x, scale, to, *zeros, rounding), SHAPE, source)


def joined_and_convolved() -> Built:
    rng, graph = random(), Graph()
    parts = [graph.input((1, 5, 6, 16)), graph.input((1, 5, 6, 20))]
    x = graph.op("CONCAT", parts, (1, 5, 6, 36), INT8, 3)
    weights, bias = rng.integers(-127, 128, (8, 3, 3, 36)), rng.integers(-999, 999, 8)
    return graph, graph.rescale(graph.conv(x, weights, bias, (1,) * 4), np.full(8, 1 / 2000))


def convolved_and_cut() -> Built:
    graph, x = convolution((1, 5, 6, 36), 40, (1, 1))
    return graph, graph.op(
        "SLICE", [x, graph.shape(0, 1, 2, 16), graph.shape(1, 3, 4, 17)], (1, 3, 4, 17), INT8
    )


def enlarged(graph: Graph, x: Any) -> Any:
    operands = [graph.shape(4, 2, 4, 2), graph.shape(-1, -1), graph.shape(1, 1)]
    return graph.op("RESIZE", [x, *operands], (1, 10, 12, 20), INT8, Resize.NEAREST)


def transposed_convolution() -> Built:
    rng, graph = random(), Graph()
    x = graph.input((1, 5, 6, 12))
    operands = [graph.const(rng.integers(-127, 128, (8, 3, 3, 12)), INT8)]
    operands += [graph.const(rng.integers(-999, 999, 8), INT32)]
    operands += [graph.const([2], INT8), graph.const([0], INT8)]
    geometry = ([0, 0, 0, 0], [2, 2], False, INT32)
    sums = graph.op("TRANSPOSE_CONV2D", [x, *operands], (1, 11, 13, 8), INT32, *geometry)
    return graph, graph.rescale(sums, np.full(8, 1 / 2000))


def multiplied_matrices() -> Built:
    graph = Graph()
    operands = [graph.input((1, 5, 20)), graph.input((1, 20, 7))]
    operands += [graph.const([2], INT8), graph.const([-3], INT8)]
    return graph, graph.rescale(graph.op("MATMUL", operands, (1, 5, 7), INT32), 1 / 900)


def unsigned_inside() -> Built:
    graph = Graph()
    x = graph.unsigned(graph.input(SHAPE), 0, 128, out=True)
    return graph, graph.unsigned(x, 128, 0, out=False)


BROADCAST = (SHAPE, (1, 1, 1, 20))
ROUNDINGS = (Rounding.SINGLE_ROUND, Rounding.DOUBLE_ROUND)
OTHERS: dict[str, Callable[[], Built]] = {
    "convolution of 16 bits": lambda: of_16_bits(depthwise=False),
    "depthwise of 16 bits": lambda: of_16_bits(depthwise=True),
    "two images": lambda: convolution((2, 5, 6, 16), 8, (3, 3), (1, 1, 1, 1)),
    "table": lambda: alone(table, (1, 4, 5, 20)),
    "table in a convolution": fused_table,
    "table behind a clamp": lambda: fused_table(clamp=True),
    "many tables": many_tables,
    "table of 16 bits": lambda: alone(table_of_16_bits, SHAPE, INT16),
    "global average": lambda: alone(
        lambda g, x: g.pool(x, (7, 7), (1, 1), zero=-7), (1, 7, 7, 40)
    ),
    "wide global average": lambda: alone(
        lambda g, x: g.pool(x, (56, 56), (1, 1), zero=-7), (1, 56, 56, 20)
    ),
    "average": lambda: alone(lambda g, x: g.pool(x, (3, 3), (2, 2), zero=5), (1, 9, 9, 12)),
    "maximum": lambda: alone(
        lambda g, x: g.pool(x, (3, 3), (2, 2), (1, 1, 1, 1), kind="MAX"), (1, 9, 9, 12)
    ),
    "maximum of 16 bits": lambda: alone(
        lambda g, x: g.pool(x, (3, 3), (2, 2), kind="MAX"), (1, 9, 9, 12), INT16
    ),
    "highest of a column": lambda: alone(
        lambda g, x: g.op("REDUCE_MAX", [x], (1, 1, 7, 20), INT8, 1, NanMode.PROPAGATE), SHAPE
    ),
    "sum": lambda: two_inputs("ADD"),
    "sum, first larger": lambda: two_inputs("ADD", scales=(0.03, 0.02, 0.04)),
    "sum, rounded twice": lambda: two_inputs("ADD", rounding=Rounding.DOUBLE_ROUND),
    "sum of 16 bits": lambda: two_inputs("ADD", dtype=INT16),
    "sum, broadcast": lambda: two_inputs("ADD", BROADCAST),
    "sum, broadcast first": lambda: two_inputs("ADD", BROADCAST[::-1]),
    "sum, both broadcast": lambda: two_inputs("ADD", ((1, 6, 1, 20), (1, 1, 7, 20))),
    "difference": lambda: two_inputs("SUB"),
    "difference, broadcast first": lambda: two_inputs("SUB", BROADCAST[::-1]),
    "product": lambda: two_inputs("MUL"),
    "product, broadcast": lambda: two_inputs("MUL", BROADCAST),
    "product, one channel": lambda: two_inputs("MUL", (SHAPE, (1, 6, 7, 1))),
    "product of 16 bits": lambda: two_inputs("MUL", dtype=INT16),
    "product, rounded twice": lambda: two_inputs("MUL", rounding=Rounding.DOUBLE_ROUND),
    "larger": lambda: of_32_bits("MAXIMUM", NanMode.PROPAGATE),
    "smaller": lambda: of_32_bits("MINIMUM", NanMode.PROPAGATE),
    "magnitude": lambda: of_32_bits("ABS", unary=True),
    "leading zeros": lambda: of_32_bits("CLZ", unary=True),
    "shift left": lambda: of_32_bits("LOGICAL_LEFT_SHIFT", shifts=True),
    "shift right": lambda: of_32_bits("ARITHMETIC_RIGHT_SHIFT", False, shifts=True),
    "shift right, rounded": lambda: of_32_bits("ARITHMETIC_RIGHT_SHIFT", True, shifts=True),
    **{
        f"rescale {name}, {mode.name}": lambda args=args, mode=mode: rescaled(*args, mode)
        for mode in ROUNDINGS
        for name, args in {
            "down": (INT8, INT8, 0.7),
            "up": (INT8, INT8, 1.9),
            "to 16 bits": (INT8, INT16, 77.7),
            "from 16 bits": (INT16, INT8, 1 / 222),
            "to 32 bits": (INT8, INT32, 333.3),
            "from 32 bits": (INT32, INT8, 1 / 9999),
            "32 bits": (INT32, INT32, 1.3),
            "each channel": (INT8, INT8, np.linspace(0.1, 1.9, 20)),
        }.items()
    },
    "unsigned elements": unsigned_inside,
    "concatenation": joined_and_convolved,
    "slice": convolved_and_cut,
    "transpose": lambda: alone(
        lambda g, x: g.op("TRANSPOSE", [x], (1, 20, 7, 6), INT8, [0, 3, 2, 1]), SHAPE
    ),
    "reverse": lambda: alone(lambda g, x: g.op("REVERSE", [x], x.shape, INT8, 1), SHAPE),
    "nearest": lambda: alone(enlarged, (1, 5, 6, 20)),
    "transposed convolution": transposed_convolution,
    "matrix product": multiplied_matrices,
}


def check(built: Built, accelerator: str, folder: Path) -> None:
    graph, output = built
    tosa, inputs = graph.finish(output), random_inputs(graph)
    (expected,) = reference(tosa, inputs)
    assert len(np.unique(expected)) > 2  # or agreement would say little
    (actual,) = interpret(compile_for(tosa, accelerator, folder), inputs)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual.ravel(), expected.ravel())


@pytest.mark.parametrize("accelerator", NAMES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, accelerator: str, tmp_path: Path) -> None:
    check(CONVOLUTIONS[name](), accelerator, tmp_path)


@pytest.mark.parametrize("accelerator", FEW)
@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name: str, accelerator: str, tmp_path: Path) -> None:
    check(OTHERS[name](), accelerator, tmp_path)


@pytest.mark.parametrize("accelerator", ["ethos-u55-32", "ethos-u55-256"])
def test_weights_in_both_orders(accelerator: str, tmp_path: Path) -> None:
    orders = set()
    for number, name in enumerate(("stem, stride 2, odd pads", "1x1 of many channels")):
        graph, output = CONVOLUTIONS[name]()
        folder = tmp_path / str(number)
        folder.mkdir()
        program = compile_for(graph.finish(output), accelerator, folder)
        commands = list(decode(program.words))
        orders |= {one.param >> 2 & 1 for one in commands if one.name == "SET_KERNEL_STRIDE"}
    assert orders == {0, 1}


@st.composite
def convolutions(draw: st.DrawFn) -> Built:
    depthwise = draw(st.booleans())
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    channels = draw(st.integers(1, 70))
    sizes, pads = [], []
    for taps, step in zip(kernel, stride, strict=True):
        before, after = draw(st.integers(0, taps - 1)), draw(st.integers(0, taps - 1))
        windows = draw(st.integers(1, 6))
        # So many pixels that the windows fit without a remainder; a map is never smaller than 1.
        size = (windows - 1) * step + taps - before - after
        while size < 1:
            windows, size = windows + 1, size + step
        sizes.append(size)
        pads += [before, after]
    return convolution(
        (1, *sizes, channels),
        channels if depthwise else draw(st.integers(1, 40)),
        kernel,
        tuple(pads),
        stride,
        depthwise=depthwise,
        seed=draw(st.integers(0, 99)),
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(built=convolutions(), accelerator=st.sampled_from(NAMES))
def test_any_convolution(built: Built, accelerator: str, tmp_path: Path) -> None:
    graph, output = built
    tosa, inputs = graph.finish(output), random_inputs(graph)
    (actual,) = interpret(compile_for(tosa, accelerator, tmp_path), inputs)
    np.testing.assert_array_equal(actual.ravel(), reference(tosa, inputs)[0].ravel())


def test_refuses_an_average_with_padding(tmp_path: Path) -> None:
    graph, output = alone(
        lambda g, x: g.pool(x, (3, 3), (2, 2), (1, 1, 1, 1), zero=5), (1, 9, 9, 12)
    )
    program = compile_for(graph.finish(output), "ethos-u55-128", tmp_path)
    with pytest.raises(UnsupportedError, match=r"OP_POOL at word \d+: an average with padding"):
        interpret(program, random_inputs(graph))


def test_graphs_are_of_tosa_1_0() -> None:
    graph, output = alone(table, SHAPE)
    assert tosa_graphs.version_of(graph.finish(output)) == (1, 0, 0)
