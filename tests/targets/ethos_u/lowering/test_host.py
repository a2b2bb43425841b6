import numpy as np
import onnx
import pytest
from onnx import parser

from mbv3c.errors import ModelError
from mbv3c.parity.reference import run, session
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.compiling import run_tosa
from mbv3c.targets.ethos_u.host_parity import run_host
from mbv3c.targets.ethos_u.lowering.host import host_part
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.lowering.reasons import (
    BEHIND_THE_CUT,
    IN_FP32,
    OTHER,
    REASONS,
    Reason,
)
from mbv3c.targets.ethos_u.placement import npu_part
from tests.targets.ethos_u.lowering.test_partition import graph_of

ALIGNED = """
    h = Conv(x, p)
    s = Constant <value_floats=[1.0,1.0,2.0,2.0]> ()
    e = Constant <value_floats: floats=[]> ()
    y = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (h, e, s)
"""
FLAT = "m = GlobalAveragePool(x) f = Flatten(m) g0 = Gemm(f, g, d) y = Softmax(g0)"
CUT = "h = Conv <pads=[1,1,1,1]> (x, w) e = Sin(h) y = Conv(e, tail)"
SPLIT = """
    h = Conv(x, p)
    m = GlobalAveragePool(h)
    e = Softmax <axis=1> (h)
    y = Mul(e, m)
"""


def quantized_of(model: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(model, random_inputs(model, 4), rank_layers=False)[0]


@pytest.mark.parametrize(
    ("body", "out", "left"),
    [
        (ALIGNED, "[1,12,18,22]", {"Resize": REASONS["Resize"]}),
        (FLAT, "[1,6]", {"Softmax": IN_FP32}),
        (SPLIT, "[1,12,9,11]", {"Softmax": IN_FP32, "Mul": IN_FP32}),
        (CUT, "[1,4,9,11]", {"Sin": OTHER, "Conv": BEHIND_THE_CUT}),
    ],
)
def test_npu_and_host_are_the_model(body: str, out: str, left: dict[str, Reason]):
    quantized = quantized_of(graph_of(body, out, tail=(4, 16, 1, 1)))
    parts = partition(quantized)
    region = npu_part(parts)
    host = host_part(quantized, region.outputs)
    stays = {one.kind: one.stay for one in parts.on_cpu if one.stay is not None}
    assert {kind: Reason(stay.why, stay.change) for kind, stay in stays.items()} == left
    # Every byte that the NPU gives goes to these, once to each that reads it.
    given = sum(int(np.prod(one.shape)) for one in region.outputs)
    assert given <= sum(stay.bytes_from_npu for stay in stays.values())
    x = random_inputs(quantized, 1).read().__iter__().__next__()
    (wanted,) = run(session(quantized), x)
    (made,) = run_host(host, run_tosa(region.tosa, [region.inputs[0].to_device(x)]))
    steps = max(one.quantization.scale for one in region.outputs)
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max() <= 2 * steps
    assert np.ptp(wanted) > 4 * steps or "Softmax" in left


def test_an_input_that_is_called_as_a_tensor_of_the_rest_gets_another_name():
    quantized = quantized_of(graph_of(FLAT, "[1,6]"))
    (end,) = npu_part(partition(quantized)).outputs
    taken = next(n for n in quantized.graph.node if n.op_type == "Softmax").input[0]
    host = host_part(quantized, [type(end)(taken, *list(vars(end).values())[1:])])
    assert host.graph.input[0].name == f"{taken}.int8"


def test_a_rest_that_reads_the_input_is_refused():
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[1,8,9,11] x) => (float[1,8,9,11] y)
        { h = HardSwish(x) e = Exp(h) y = Div(x, e) }
    """)
    quantized = quantized_of(model)
    with pytest.raises(ModelError, match="reads x, which goes to the NPU"):
        host_part(quantized, [])
