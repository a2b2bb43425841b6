"""Transposed convolutions are products or convolutions, interleaved; the others are TVM's."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import mbv3c
from mbv3c.job_spec import NO_TUNE_LOGS, JobSpec
from mbv3c.targets.library.manifest import manifest_of
from tests.onnx_text import graph, random
from tests.targets.cpu import networks as cpu
from tests.targets.opencl import networks as gpu


def kinds(model: onnx.ModelProto, target: str, folder: Path) -> list[str]:
    """Compile and verify a model; return the kinds of its kernels."""
    compiled = mbv3c.compile(model, JobSpec(target, "fp32", tune_logs=NO_TUNE_LOGS), folder / "b")
    assert compiled.verdict is not None
    assert compiled.verdict.passed
    return [kernel.kind for kernel in manifest_of(compiled.bundle).kernels]


def upsampled(
    channels: int, kernel: tuple[int, int], after: str = "y = Relu(u)", batch: int = 1
) -> onnx.ModelProto:
    height, width = 5 * kernel[0], 7 * kernel[1]
    return graph(
        f"g (float[{batch}, 6, 5, 7] x) => (float[{batch}, {channels}, {height}, {width}] y) {{"
        f"c = Conv <pads = [1, 1, 1, 1]> (x, v)"
        f"u = ConvTranspose <strides = [{kernel[0]}, {kernel[1]}]> (c, w) {after} }}",
        v=random(6, 6, 3, 3),
        w=random(6, channels, *kernel),
        bias=random(1, channels, 1, 1),
        scale=np.abs(random(channels)) + 1,
        shift=random(channels),
        mean=random(channels),
        variance=np.abs(random(channels)) + 1,
    )


@pytest.mark.parametrize("target", ["host_cpu", "mobile_gpu"])
@pytest.mark.parametrize(
    ("channels", "kernel", "batch"), [(24, (2, 2), 1), (1, (2, 2), 1), (5, (2, 3), 2)]
)
def test_a_product_and_its_rows(
    channels: int, kernel: tuple[int, int], batch: int, target: str, tmp_path: Path
) -> None:
    made = kinds(upsampled(channels, kernel, batch=batch), target, tmp_path)
    assert made[1:3] == ["pointwise", "interleave"]
    assert "fallback" not in made


@pytest.mark.parametrize(
    "after",
    [
        "a = Add(u, bias) n = BatchNormalization(a, scale, shift, mean, variance) y = Relu(n)",
        "y = Mul(u, bias)",
        "n = BatchNormalization(u, scale, shift, mean, variance) y = HardSwish(n)",
    ],
)
def test_what_follows_per_channel_is_part_of_the_weights(after: str, tmp_path: Path) -> None:
    made = kinds(upsampled(24, (2, 2), after), "host_cpu", tmp_path)
    assert made == ["convolution", "pointwise", "interleave", *made[3:]]
    assert set(made[3:]) <= {"transpose"}


def overlapping(
    attributes: str, kernel: tuple[int, int], size: tuple[int, int], groups: int = 1
) -> onnx.ModelProto:
    outputs = 6 if groups > 1 else 5
    return graph(
        f"g (float[2, 6, 5, 7] x) => (float[2, {outputs}, {size[0]}, {size[1]}] y) {{"
        f"c = Conv (x, v) u = ConvTranspose <{attributes}, group = {groups}> (c, w, b) "
        "y = HardSwish(u) }",
        v=random(6, 6, 1, 1),
        w=random(6, outputs // groups, *kernel),
        b=random(outputs),
    )


@pytest.mark.parametrize(
    ("attributes", "kernel", "size", "made"),
    [
        ("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 4), (10, 14), 4),
        ("strides = [3, 2], pads = [2, 0, 0, 1]", (5, 3), (15, 14), 6),
        ("strides = [2, 1], dilations = [1, 2], pads = [0, 2, 0, 2]", (2, 3), (10, 7), 1),
        ("strides = [2, 2], pads = [1, 1, 1, 1]", (3, 3), (9, 13), 4),  # the last group is cut
        ("strides = [2, 2], output_padding = [1, 1]", (2, 2), (11, 15), 4),
        ("strides = [3, 3]", (2, 1), (14, 19), 9),  # places that no tap reaches
    ],
)
def test_places_are_convolutions_together_or_apart(
    attributes: str, kernel: tuple[int, int], size: tuple[int, int], made: int
) -> None:
    kinds = cpu.kinds(cpu.agrees(overlapping(attributes, kernel, size), cpu.AVX2))
    assert kinds[-2:] == ["interleave", "transpose"]
    assert set(kinds[-2 - made : -2]) <= {"pointwise", "convolution"}
    assert kinds[: -2 - made] == ["transpose", "pointwise"]


@pytest.mark.parametrize(("groups", "kind"), [(2, "convolution"), (6, "depthwise")])
@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("pads = [1, 1, 1, 1]", (10, 14)),
        ("dilations = [2, 2]", (15, 19)),  # every other place is reached by no tap
    ],
)
def test_groups(attributes: str, size: tuple[int, int], groups: int, kind: str) -> None:
    model = overlapping(f"strides = [2, 2], {attributes}", (4, 4), size, groups)
    assert cpu.kinds(cpu.agrees(model, cpu.AVX2))[2:] == [*4 * [kind], "interleave", "transpose"]


def test_a_stride_of_one_is_a_convolution() -> None:
    model = overlapping("strides = [1, 1], pads = [1, 0, 1, 2]", (3, 3), (5, 7))
    assert cpu.kinds(cpu.agrees(model, cpu.AVX2))[2:] == ["convolution", "transpose"]


def test_overlaps_on_a_gpu() -> None:
    model = overlapping("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 4), (10, 14))
    assert "fallback" not in cpu.kinds(gpu.agrees(model))


@pytest.mark.parametrize("attributes", ["strides = [9, 9]", "strides = [2, 2], group = 5"])
def test_others_are_left_to_tvm(attributes: str) -> None:
    channels, side = (10, 16) if "group" in attributes else (2, 65)
    model = graph(
        f"g (float[1, 10, 8, 8] x) => (float[1, {channels}, {side}, {side}] y)"
        f"{{ y = ConvTranspose <{attributes}> (x, w) }}",
        w=random(10, 2, 2, 2),
    )
    assert "fallback" in cpu.kinds(cpu.agrees(model, cpu.AVX2))
