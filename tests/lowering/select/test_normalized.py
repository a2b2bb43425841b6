"""Rows are normalised exactly, however far from zero they lie."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from mbv3c.lowering.lower import Lowered
from mbv3c.passes import run_pipeline
from tests.onnx_text import graph, random
from tests.targets.cpu import networks as cpu
from tests.targets.opencl import networks as gpu

SHAPE = (2, 6, 5, 7)
SCALES = {
    "scale": np.abs(random(6)) + 0.5,
    "bias": random(6, seed=1),
    "row": random(7, seed=2),
    "plane": random(5, 7, seed=3),
}


def normalising(call: str, opset: int = 21) -> onnx.ModelProto:
    text = f"g (float[2, 6, 5, 7] x) => (float[2, 6, 5, 7] y) {{ y = {call} }}"
    return graph(text, opset, **{name: each for name, each in SCALES.items() if name in call})


def exact(
    x: np.ndarray, groups: tuple[int, ...], scale: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Normalise rows of x, taken in this shape, in double precision."""
    rows = x.astype(np.float64).reshape(*groups, -1)
    offset = rows - rows.mean(-1, keepdims=True)
    y = (offset / np.sqrt((offset**2).mean(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    return np.asarray(y * scale + bias)


def channels(values: np.ndarray) -> np.ndarray:
    return values.reshape(6, 1, 1)


OWN = channels(SCALES["scale"]), channels(SCALES["bias"])
CASES: dict[str, tuple[onnx.ModelProto, Callable[[np.ndarray], np.ndarray]]] = {
    "layer": (
        normalising("LayerNormalization (x, row, row)"),
        lambda x: exact(x, (2, 6, 5), SCALES["row"], SCALES["row"]),
    ),
    "layer of planes, without a bias": (
        normalising("LayerNormalization <axis = 2> (x, plane)"),
        lambda x: exact(x, (2, 6), SCALES["plane"], np.zeros(1)),
    ),
    "one scale for planes": (
        normalising("LayerNormalization <axis = -2> (x, row, plane)"),
        lambda x: exact(x, (2, 6), SCALES["row"], SCALES["plane"]),
    ),
    "instance": (
        normalising("InstanceNormalization (x, scale, bias)", 7),
        lambda x: exact(x, (2, 6), *OWN),
    ),
    "group": (
        normalising("GroupNormalization <num_groups = 3> (x, scale, bias)"),
        lambda x: exact(x, (2, 3), *OWN),
    ),
}


def errors(lowered: Lowered, run: Callable[..., list[list[np.ndarray]]], name: str) -> list[float]:
    xs = [random(*SHAPE) + np.float32(offset) for offset in (0, 100, 1e4)]
    wanted = [CASES[name][1](x) for x in xs]
    results = zip(run(lowered, xs), wanted, strict=True)
    return [float(np.abs(got - want).max()) for (got,), want in results]


@pytest.mark.parametrize("name", CASES)
def test_far_from_zero(name: str) -> None:
    lowered = cpu.lower(run_pipeline(CASES[name][0])[0], cpu.AVX2)
    assert cpu.kinds(lowered) == ["normalization"]
    assert max(errors(lowered, cpu.run, name)) <= 5e-6  # of values up to 10


def test_on_a_gpu() -> None:
    lowered = gpu.lowered_for(run_pipeline(CASES["group"][0])[0])
    assert cpu.kinds(lowered) == ["normalization"]
    assert max(errors(lowered, gpu.run, "group")) <= 5e-6


@pytest.mark.parametrize(
    "call",
    [
        "LayerNormalization (x, computed, row)",  # a scale that is known when it runs only
        "LayerNormalization (x, row, row) z = Add(d, row)",  # whose deviation is read
    ],
)
def test_what_is_left_to_tvm(call: str) -> None:
    outputs = "y, m, d" if "Add(d" in call else "y"
    results = "float[2, 6, 5, 7] y" + (", float[2, 6, 5, 7] z" if "Add(d" in call else "")
    model = graph(
        f"g (float[2, 6, 5, 7] x) => ({results})"
        f"{{ computed = ReduceMax <keepdims = 0, axes = [0, 1, 2]> (x) {outputs} = {call} }}",
        row=SCALES["row"],
    )
    assert "normalization" not in cpu.kinds(cpu.agrees(run_pipeline(model)[0]))
