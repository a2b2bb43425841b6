"""Linear enlarging by whole numbers against onnxruntime, and which Resize nodes it takes."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from mbv3c.targets.cpu.cores import Processor
from mbv3c.targets.cpu.schedules import upsample
from mbv3c.targets.cpu.schedules.upsample import Upsample
from tests.onnx_text import graph
from tests.targets.cpu.networks import NEON, agrees, kinds, lower
from tests.targets.cpu.schedules.kernels import MACHINES, Call, check, random

RULES = {True: "half_pixel", False: "asymmetric"}
# planes, sides, factors: one row, odd rests, a factor that is no power of two, other factors down
SHAPES = [(2, 1, 2, 1, 2), (3, 5, 7, 8, 8), (1, 3, 4, 4, 6), (2, 2, 9, 3, 32), (1, 6, 6, 2, 2)]


def call(shape: Upsample, machine: Processor) -> Call:
    x = random(shape.planes, shape.height, shape.width)
    node = f'Resize<mode = "linear", coordinate_transformation_mode = "{RULES[shape.centred]}">'
    sides = f"1, {shape.planes}, {shape.height}, {shape.width}"
    larger = f"1, {shape.planes}, {shape.height * shape.down}, {shape.width * shape.across}"
    model = graph(
        f'g (float[{sides}] x) => (float[{larger}] y) {{ y = {node}(x, "", scales) }}',
        scales=np.array([1, 1, shape.down, shape.across], np.float32),
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (wanted,) = session.run(None, {"x": x[None]})
    weights = (shape.weights(factor) for factor in (shape.down, shape.across))
    return Call(upsample.generate(shape, machine), (x, *weights), wanted[0])


@pytest.mark.parametrize("machine", MACHINES, ids=["neon", "avx2", "avx512"])
def test_any_shape(machine: Processor) -> None:
    shapes = [Upsample(*sizes, centred) for sizes in SHAPES for centred in RULES]
    assert all(upsample.is_possible(shape, machine) for shape in shapes)
    check([call(shape, machine) for shape in shapes])


@pytest.mark.parametrize(
    ("attributes", "scales", "kind"),
    [
        ("", [1, 1, 4, 8], "upsample"),
        (', coordinate_transformation_mode = "pytorch_half_pixel"', [1, 1, 1, 2], "upsample"),
        (', coordinate_transformation_mode = "align_corners"', [1, 1, 2, 2], "fallback"),
        ("", [1, 1, 3, 3], "fallback"),  # no vectors
        ("", [1, 1, 1, 64], "fallback"),  # too many constants
    ],
)
def test_which_are_taken(attributes: str, scales: list[int], kind: str) -> None:
    height, width = 3 * scales[2], 5 * scales[3]
    node = f'Resize<mode = "linear"{attributes}>(x, "", scales)'
    model = graph(
        f"g (float[1, 2, 3, 5] x) => (float[1, 2, {height}, {width}] y) {{ y = {node} }}",
        scales=np.array(scales, np.float32),
    )
    assert kinds(agrees(model, NEON)) == [kind]


def test_cores_share_planes() -> None:
    four = replace(NEON, cores=4)
    small, large = (
        upsample.generate(Upsample(planes, 28, 28, 8, 8, centred=True), four).script()
        for planes in (1, 21)
    )
    assert "T.parallel" not in small
    assert "T.parallel" in large


def test_a_resize_of_sizes_is_taken_too() -> None:
    model = graph(
        "g (float[1, 2, 3, 5] x) => (float[1, 2, 6, 10] y)"
        ' { y = Resize<mode = "linear">(x, "", "", sizes) }',
        sizes=np.array([1, 2, 6, 10]),
    )
    assert kinds(lower(model, NEON)) == ["upsample"]
