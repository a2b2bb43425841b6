import numpy as np
import onnx
import pytest

from mbv3c.errors import ModelError
from mbv3c.parity.reference import run, session
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.compiling import run_tosa
from mbv3c.targets.ethos_u.lowering.channels_last import with_transpose_first
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from tests.targets.ethos_u.lowering.small_graphs import ONE_OPERATION_LSB, graph_of

MOVED = "t = Transpose <perm=[0,3,1,2]>"
NUMBER = "n = Constant <value_float=0.7> ()"


def quantized(body: str, out: str, inputs: str) -> onnx.ModelProto:
    model = graph_of(body, out, inputs, u=(16, 8, 3), many=(1, 1, 1, 8))
    return quantize(model, random_inputs(model, 2), rank_layers=False)[0]


def operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators from the input on."""
    return [node.op_type for node in model.graph.node if "Linear" not in node.op_type]


@pytest.mark.parametrize(
    ("body", "out", "inputs"),
    [
        (f"{MOVED}(x) y = Conv(t, p)", "[1,12,9,11]", "[1,9,11,8]"),
        (
            f"{NUMBER} a = Mul(x, n) h = HardSwish(a) {MOVED}(h) y = Conv(t, p)",
            "[1,12,9,11]",
            "[1,9,11,8]",
        ),
        (f"a = Sub(many, x) {MOVED}(a) y = Conv(t, p)", "[1,12,9,11]", "[1,9,11,8]"),
        ("t = Transpose <perm=[0,2,1]> (x) y = Conv(t, u)", "[1,16,97]", "[1,99,8]"),
    ],
)
def test_the_device_takes_the_input_as_it_is(body: str, out: str, inputs: str):
    model = quantized(body, out, inputs)
    first = with_transpose_first(model)
    assert operators(first)[0] == "Transpose"
    region = npu_part(partition(first))
    (end,) = region.inputs
    assert end.channels_last
    x = np.random.default_rng(0).standard_normal(end.shape).astype(np.float32)
    (wanted,) = run(session(model), x)
    np.testing.assert_array_equal(run(session(first), x)[0], wanted)
    integers = end.to_device(x)
    assert np.array_equal(integers.ravel(), end.quantization.quantize(x).ravel())
    ours = region.outputs[0].to_model(run_tosa(region.tosa, [integers])[0])
    step = region.outputs[0].quantization.scale
    assert np.abs(ours - wanted).max() <= 2 * ONE_OPERATION_LSB * step * (1 + 1e-5)


@pytest.mark.parametrize(
    ("body", "out", "inputs"),
    [
        ("y = Conv(x, p)", "[1,12,9,11]", "[1,8,9,11]"),  # no Transpose
        (
            f"h = HardSwish(x) {MOVED}(h) s = Transpose <perm=[0,3,1,2]> (x) y = Add(t, s)",
            "[1,8,9,11]",
            "[1,9,11,8]",
        ),  # another reader
        (f"a = Mul(x, rows) {MOVED}(a) y = HardSwish(t)", "[1,8,9,11]", "[1,9,11,8]"),
        (
            "h = HardSwish(x) t = Transpose <perm=[0,1,3,2]> (h) y = Conv(t, p)",
            "[1,12,11,9]",
            "[1,8,9,11]",
        ),  # another order
    ],
)
def test_any_other_model_stays_as_it_is(body: str, out: str, inputs: str):
    # Of the graph as it is given: the rewrites sink Transposes themselves.
    model = graph_of(body, out, inputs, rows=(1, 9, 1, 1))
    assert with_transpose_first(model) is model


def test_a_cube_is_refused():
    model = quantized(f"{MOVED}(x) y = Conv(t, p)", "[1,12,8,8]", "[1,8,8,8]")
    with pytest.raises(ModelError, match=r"inside it there would be: Transpose"):
        npu_part(partition(with_transpose_first(model)))
