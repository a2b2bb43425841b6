"""Frames as convolutions read images, against numpy."""

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from mbv3c.targets import find_target
from mbv3c.targets.cpu.schedules import frame
from mbv3c.targets.cpu.schedules.frame import Frame, Line, line_through
from mbv3c.targets.library.target import resolve, tvm_target
from tests.kernel_builds import compiled

LINES = (Line(1, -128, 0), Line(121, 7, 7), Line(3, -40_000, 2), Line(-900_001, 77, 20))
SHAPES = [Frame(2, 49, 3), Frame(1, 19, 3, planes=True), Frame(1, 3, 4), Frame(1, 1, 1)]


def ran(functions: dict[str, PrimFunc], calls: dict[str, list[NDArray[Any]]]) -> None:
    """Run kernels on this machine; each writes its last array."""
    module = tvm.IRModule(
        {name: f.with_attr("global_symbol", name) for name, f in functions.items()}
    )
    library = compiled(module, tvm_target(resolve(find_target("host_cpu"))))
    for name, arrays in calls.items():
        held = [tvm.runtime.tensor(one) for one in arrays]
        library[name](*held)
        arrays[-1][:] = held[-1].numpy()


def test_any_shape() -> None:
    functions, calls = {}, {}
    for number, shape in enumerate(SHAPES):
        rng = np.random.default_rng(number)
        x = rng.integers(0, 256, (shape.batch, shape.places * shape.channels), np.uint8)
        shift = rng.normal(0, 100, shape.channels).astype(np.float32)
        planes = (shape.batch, shape.channels, shape.places)
        for dtype in ("float32", "float16"):
            functions[f"{dtype}_{number}"] = frame.generate_floats(shape, dtype)
            calls[f"{dtype}_{number}"] = [x, shift, np.full(planes, np.nan, dtype)]
        for written in {shape.channels, 4}:
            name = f"int8_{number}_{written}"
            functions[name] = frame.generate_integers(shape, LINES[: shape.channels], written)
            calls[name] = [x, np.full((shape.batch, shape.places * written), 99, np.int8)]
    ran(functions, calls)
    for name, (x, *shift, y) in calls.items():
        shape = SHAPES[int(name.split("_")[1])]
        sides = (shape.channels, shape.places)
        pixels = x.reshape(shape.batch, *(sides if shape.planes else sides[::-1]))
        pixels = pixels.transpose(0, 2, 1) if shape.planes else pixels
        if shift:
            wanted = pixels.astype(np.float32) + shift[0]
            np.testing.assert_array_equal(y, wanted.transpose(0, 2, 1).astype(y.dtype))
            continue
        got = y.reshape(shape.batch, shape.places, -1)
        assert not got[..., shape.channels :].any()
        for channel, line in enumerate(LINES[: shape.channels]):
            wanted = line.apply(pixels[..., channel].astype(np.int64))
            np.testing.assert_array_equal(got[..., channel], wanted)


@settings(max_examples=20)
@given(slope=st.floats(-3, 3).filter(lambda value: abs(value) > 0.01), addend=st.floats(-400, 400))
def test_a_line_gives_every_pixel_exactly(slope: float, addend: float) -> None:
    values = np.arange(256) * slope + addend
    assume(np.abs(values % 1 - 0.5).min() > 1e-4)  # halves are rounded to even, as no line does
    wanted = np.clip(np.rint(values), -128, 127).astype(np.int64)
    line = line_through(wanted, slope)
    assert line is not None
    np.testing.assert_array_equal(line.apply(np.arange(256)), wanted)


def test_what_is_no_line_has_none() -> None:
    assert line_through(np.arange(256) % 7, 0.0) is None


@pytest.mark.parametrize("dtype", ["int16", "int32"])
def test_narrow_lines_are_computed_in_16_bits(dtype: str) -> None:
    line = Line(1, -128, 0) if dtype == "int16" else Line(4097, 0, 12)
    text = frame.generate_integers(Frame(1, 16, 1), [line], 1).script()
    assert (dtype in text, "int32x" in text) == (True, dtype == "int32")
