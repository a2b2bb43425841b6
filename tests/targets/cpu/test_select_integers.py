"""Quantized networks by integer kernels, against onnxruntime on the same pairs."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.emulator.runner import EmulatedRunner
from mbv3c.targets.cpu.cores import CORES, Processor
from tests.quantized_networks import (
    HOST,
    LANES,
    PLAIN,
    TWO_CORES,
    inputs_of,
    network,
    plan_for,
    quantized,
    random,
    run_here,
    run_on,
    steps_apart,
)

# Integers are exact. onnxruntime multiplies and adds the same numbers in fp32, so about one value
# in a million lies on the other side of the middle between two steps.
APART = 1


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


@pytest.mark.parametrize(
    "machine", [HOST, LANES, PLAIN, TWO_CORES], ids=["host", "lanes", "plain", "two cores"]
)
def test_a_network_computes_what_onnxruntime_computes(
    model: onnx.ModelProto, machine: Processor, tmp_path: Path
) -> None:
    outputs = run_here(model, machine, tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() <= APART


@pytest.mark.parametrize("target", ["arm_cpu:cortex-a76", "arm_cpu:cortex-a53"])
def test_a_network_on_emulated_arm(
    model: onnx.ModelProto, target: str, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    """The library says what an older processor lacks, where it would meet `sdot`."""
    outputs = run_on(model, target, tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() <= APART
    older = EmulatedRunner(emulator_kit, "cortex-a72")
    if target.endswith("a53"):
        np.testing.assert_array_equal(older.run(tmp_path, inputs_of(model)), outputs)
        return
    with pytest.raises(ToolError, match=r"status 1[^0-9]") as caught:
        older.run(tmp_path, inputs_of(model))
    assert (
        "this library is for arm_cpu:cortex-a76, and the processor has no arithmetic in half "
        "precision (asimdhp), no dot products of int8 (asimddp); compile for a target that needs"
    ) in str(caught.value)


def test_a_core_without_products_of_matrices_is_told_so(
    model: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    outputs = run_on(model, "arm_cpu:cortex-a710", tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() <= APART
    with pytest.raises(ToolError, match=r"status 1[^0-9]") as caught:
        EmulatedRunner(emulator_kit, "cortex-a76").run(tmp_path, inputs_of(model))
    assert "this library is for arm_cpu:cortex-a710, and the processor has no" in str(caught.value)
    assert "no products of matrices of int8 (i8mm); compile for a target" in str(caught.value)


def with_nine_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights are -100 to 154 around a zero point, in steps half as wide."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in changed.graph.initializer}
    for node in changed.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        integers, scale, zero = (numpy_helper.to_array(stored[name]) for name in node.input)
        if integers.dtype == np.int8:
            wide = np.clip(2 * integers.astype(np.int16), -100, 154)
            arrays = ((wide - 27).astype(np.int8), scale / 2, np.full_like(zero, -27))
            for name, array in zip(node.input, arrays, strict=True):
                stored[name].CopyFrom(numpy_helper.from_array(array, name))
    return changed


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu:cortex-a76", "arm_cpu:cortex-a710"])
def test_weights_of_nine_bits(
    model: onnx.ModelProto, target: str, emulator_kit: object, tmp_path: Path
) -> None:
    wide = with_nine_bits(model)
    for cores in (HOST, CORES["cortex-a76"]):
        kinds = [[step.kind for step in plan_for(each, cores).steps] for each in (model, wide)]
        assert kinds[0] == kinds[1]
    inputs = inputs_of(wide)
    outputs = (
        run_here(wide, HOST, tmp_path) if target == "host_cpu" else run_on(wide, target, tmp_path)
    )
    assert steps_apart(wide, outputs, inputs).max() <= APART
    assert steps_apart(model, outputs, inputs).max() > APART


def test_another_weight_gives_another_result(model: onnx.ModelProto, tmp_path: Path) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == "w_back_quantized":
            array = numpy_helper.to_array(tensor).copy()
            array[:, 0] = 127
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    outputs = run_here(changed, HOST, tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() > APART


def test_integers_from_the_first_to_the_last_node(model: onnx.ModelProto) -> None:
    plan = plan_for(model, CORES["cortex-a76"])
    kinds = Counter(step.kind for step in plan.steps)
    assert kinds == {
        "quantize": 1,
        "integer_convolution": 1,
        "integer_depthwise": 2,
        "integer_pointwise": 7,
        "global_pool": 2,
        "elementwise": 2,
        "dequantize": 1,
    }
    types = Counter(value.dtype for value in plan.values.values())
    assert types["float32"] == 2  # the input and the output
    nodes = {name for step in plan.steps for name in step.nodes}
    assert {"stem", "stem_act", "deep_act", "gate", "residual", "head"} <= nodes


def test_choices_belong_to_the_kernel_and_not_to_what_rounds_its_result(
    model: onnx.ModelProto,
) -> None:
    """Without dot products the first convolution is computed in fp32, and rounded after it."""
    plan = plan_for(model, CORES["cortex-a53"])
    kinds = [step.kind for step in plan.steps[:4]]
    assert kinds == ["quantize", "dequantize", "convolution", "quantize"]
    assert all(bool(step.knobs) == bool(step.origin) for step in plan.steps)


def test_what_has_no_integer_kernel_runs_in_fp32(tmp_path: Path) -> None:
    model = quantized(
        """g (float[1, 4, 9, 9] x) => (float[1, 4, 9, 9] y)
        {
            [three] t = Conv <pads = [1, 1, 1, 1], group = 2> (x, w)
            [sigmoid] s = Sigmoid(t)
            [one] y = Conv(s, v)
        }""",
        w=random(4, 2, 3, 3),
        v=random(4, 4, 1, 1, seed=1),
    )
    kinds = [step.kind for step in plan_for(model, HOST).steps]
    assert "fallback" in kinds
    assert "integer_pointwise" in kinds
    outputs = run_here(model, HOST, tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() <= APART


def test_unsigned_activations_of_other_tools(tmp_path: Path) -> None:
    text = """g (float[1, 8, 5, 5] x) => (float[1, 12, 5, 5] y)
        <float s = {0.05}, float t = {0.1}, uint8 z = {131}, uint8 u = {100}, float v = {0.02},
         int8 o = {0}>
        {
            [q1] a = QuantizeLinear(x, s, z)
            [d1] b = DequantizeLinear(a, s, z)
            [dw] w = DequantizeLinear(integers, v, o)
            [conv] c = Conv(b, w)
            [q2] e = QuantizeLinear(c, t, u)
            [d2] y = DequantizeLinear(e, t, u)
        }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    integers = np.random.default_rng(0).integers(-128, 128, (12, 8, 1, 1)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(integers, "integers"))
    onnx.checker.check_model(model, full_check=True)
    assert "integer_pointwise" in [step.kind for step in plan_for(model, HOST).steps]
    outputs = run_here(model, HOST, tmp_path)
    assert steps_apart(model, outputs, inputs_of(model)).max() <= APART
