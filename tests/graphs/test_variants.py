"""Every published variant: its counts, its padding, its dilation, its names."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Architecture
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import Counts, count, tensor_shapes
from mbv3c.graphs.spec import ModelSpec, architecture, pads
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import run, session

TENSORFLOW = {"width_rule": "tensorflow"}
MINIMALISTIC = {"minimalistic": True, "width_rule": "tensorflow"}

# Weights, biases and BatchNormalization's scale and shift; multiply-adds at 224 pixels, 1000
# classes. Counted in torchvision's models and, for the width rule of TensorFlow, in timm's tf_*.
PUBLISHED = [
    ("large", {"width": 0.35}, 997_064, 35_278_408),
    ("large", {"width": 0.5}, 1_734_576, 64_962_192),
    ("large", {"width": 0.75}, 3_377_576, 140_033_816),
    ("large", {"width": 0.75, **TENSORFLOW}, 3_993_528, 154_560_624),
    ("large", {}, 5_483_032, 216_589_760),
    ("large", TENSORFLOW, 5_483_032, 216_589_760),
    ("large", {"width": 1.25}, 8_164_744, 343_461_000),
    ("large", {"dilated": True}, 5_483_032, 354_816_800),
    ("large", {"reduced_tail": True}, 2_569_352, 182_302_720),
    ("large", MINIMALISTIC, 3_924_288, 209_136_704),
    ("small", {"width": 0.35}, 558_744, 11_238_936),
    ("small", {"width": 0.5}, 917_264, 18_970_736),
    ("small", {"width": 0.75}, 1_653_920, 39_115_576),
    ("small", {"width": 0.75, **TENSORFLOW}, 2_041_872, 43_399_344),
    ("small", {}, 2_542_856, 56_510_400),
    ("small", TENSORFLOW, 2_542_856, 56_510_400),
    ("small", {"width": 1.25}, 3_644_912, 88_155_944),
    ("small", {"dilated": True}, 2_542_856, 106_509_216),
    ("small", {"reduced_tail": True}, 1_099_672, 43_763_584),
    ("small", MINIMALISTIC, 2_044_736, 52_288_448),
]


@pytest.mark.parametrize(("variant", "options", "params", "madds"), PUBLISHED)
def test_counts_are_the_published_ones(
    variant: str, options: dict, params: int, madds: int
) -> None:
    assert count(build_model(ModelSpec(variant, **options))) == Counts(params, madds)


def work(arch: Architecture, side: int, classes: int) -> int:
    """Add up the multiply-adds of a network by hand, from its layers' sizes alone."""
    side //= 2
    total = side**2 * 27 * arch.stem
    channels = arch.stem
    for block in arch.blocks:
        if block.expand != channels:
            total += side**2 * channels * block.expand
        side //= block.stride
        total += side**2 * block.kernel**2 * block.expand
        if block.squeeze:
            quarter = max(8, int(block.expand / 4 + 4) // 8 * 8)
            quarter += 8 if quarter < 0.9 * block.expand / 4 else 0
            total += 2 * block.expand * quarter
        total += side**2 * block.expand * block.out
        channels = block.out
    total += side**2 * channels * arch.last_conv
    return total + arch.last_conv * arch.hidden + arch.hidden * classes


@pytest.mark.parametrize("resolution", [96, 128, 160, 192, 224, 256])
@pytest.mark.parametrize("variant", ["large", "small"])
def test_multiply_adds_at_every_resolution(variant: str, resolution: int) -> None:
    spec = ModelSpec(variant, resolution=resolution, classes=10)
    assert count(build_model(spec)).madds == work(architecture(spec), resolution, 10)


@pytest.mark.parametrize(
    ("rule", "stride", "wanted"),
    [
        ("symmetric", 1, (2, 2)),
        ("symmetric", 2, (2, 2)),
        ("same", 1, (2, 2)),
        ("same", 2, (1, 2)),
    ],
)
def test_padding_of_a_5x5_kernel(rule: str, stride: int, wanted: tuple[int, int]) -> None:
    assert pads(rule, 28, 5, stride, 1) == wanted


@pytest.mark.parametrize("size", range(7, 30))
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_what_onnx_calls_same_upper(size: int, kernel: int, stride: int) -> None:
    def padded(attribute: str) -> np.ndarray:
        text = f"""<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 1, {size}, {size}] x) => (float[1, 1, h, w] y) {{
                y = Conv <{attribute}, strides = [{stride}, {stride}]> (x, w)
            }}"""
        model = onnx.parser.parse_model(text)
        weight = np.arange(kernel**2, dtype=np.float32).reshape(1, 1, kernel, kernel)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        return run(session(model), parity_inputs((1, 1, size, size))[0])[0]

    before, after = pads("same", size, kernel, stride, 1)
    ours = padded(f"pads = [{before}, {before}, {after}, {after}]")
    np.testing.assert_array_equal(ours, padded('auto_pad = "SAME_UPPER"'))


def test_same_padding_stands_in_the_graph_at_stride_2_only() -> None:
    model = build_model(ModelSpec("small", padding="same", resolution=96, classes=10))
    found = {
        node.name: next(list(a.ints) for a in node.attribute if a.name == "pads")
        for node in model.graph.node
        if node.name
        in ("features.0.conv", "features.4.depthwise.conv", "features.5.depthwise.conv")
    }
    assert found == {
        "features.0.conv": [0, 0, 1, 1],
        "features.4.depthwise.conv": [1, 1, 2, 2],
        "features.5.depthwise.conv": [2, 2, 2, 2],
    }


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_dilated_keeps_a_16th_of_the_resolution(padding: str) -> None:
    spec = ModelSpec("large", dilated=True, padding=padding, resolution=96, classes=10)
    shapes = tensor_shapes(build_model(spec))
    assert shapes["features.16.bn.output"] == (1, 960, 6, 6)


def test_minimalistic_has_no_gate_no_hardswish_and_small_kernels() -> None:
    model = build_model(ModelSpec("small", minimalistic=True, resolution=96, classes=10))
    operators = {node.op_type for node in model.graph.node}
    assert operators == {
        *("Conv", "BatchNormalization", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm")
    }
    kernels = {
        tuple(attribute.ints)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    }
    assert kernels == {(1, 1), (3, 3)}


@pytest.mark.parametrize("options", [{"width": 0.35}, MINIMALISTIC, {"dilated": True}])
@pytest.mark.parametrize("variant", ["large", "small"])
def test_the_signal_reaches_the_logits_of_every_variant(variant: str, options: dict) -> None:
    model = build_model(ModelSpec(variant, **options, classes=50))
    opened = session(model)
    logits = np.stack([run(opened, x)[0] for x in parity_inputs((1, 3, 224, 224))])
    assert 0.2 < logits.std(axis=0).mean() < 10


def test_names_say_what_is_not_the_default() -> None:
    assert ModelSpec().name == "mobilenet_v3_large"
    assert ModelSpec("small", width=0.75).name == "mobilenet_v3_small_0.75"
    assert ModelSpec(minimalistic=True, reduced_tail=True).name == (
        "mobilenet_v3_large_minimalistic_reduced_tail"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.3}, r"width must be 0\.35 to 1\.25, got 0\.3"),
        ({"width": float("nan")}, "width must be"),
        ({"bn_epsilon": 0.0}, "bn-epsilon must lie between 0 and 1, got 0"),
        ({"width_rule": "keras"}, "unknown width-rule 'keras'; known: torchvision, tensorflow"),
        ({"padding": "valid"}, "unknown padding 'valid'; known: symmetric, same"),
    ],
)
def test_what_is_not_known_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSpec(**options)
