"""Graphs of an operator or two, and what TOSA makes of them beside onnxruntime."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

from mbv3c.parity.reference import run, session
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.compiling import run_tosa
from mbv3c.targets.ethos_u.lowering.convert import LoweringOptions
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.layout import to_device
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part

# One operation: only a tie that fp32 rounds the other way is left.
ONE_OPERATION_LSB = 1


def graph_of(
    body: str, out: str = "[1,8,9,11]", inputs: str = "[1,8,9,11]", **constants: tuple[int, ...]
) -> onnx.ModelProto:
    """Return a graph from x to y; `constants` are shapes of more constants by their names."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float{inputs} x) => (float{out} y) {{ {body} }}
    """
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    shapes = {
        "w": (16, 8, 3, 3),
        "v": (8, 1, 5, 5),
        "p": (12, 8, 1, 1),
        "b": (16,),
        "c": (8,),
        "g": (8, 6),
        "d": (6,),
        **constants,
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in used:
            values = rng.standard_normal(shape).astype(np.float32) / 4
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"node {index} {node.op_type}"
    return model


def difference(model: onnx.ModelProto, lowering: LoweringOptions | None = None) -> int:
    """Return the largest difference in LSB between TOSA and onnxruntime, over some inputs."""
    calibration = random_inputs(model, 4)
    quantized, _ = quantize(model, calibration, rank_layers=False)
    quantized = device_graph(quantized)
    region = npu_part(partition(quantized, lowering))
    opened = session(quantized)
    worst = 0
    for x in calibration.read():
        (ours,) = run_tosa(region.tosa, [region.inputs[0].to_device(x)])
        (theirs,) = run(opened, x)
        wanted = region.outputs[0].quantization.quantize(theirs)
        worst = max(worst, int(np.abs(ours.astype(int) - to_device(wanted)).max()))
    return worst
