"""Random models on an NPU: right operator by operator, or refused in two lines of ONNX's words.

`--variations 500` tries more than CI does.
"""

import pytest

from mbv3c.errors import ModelError
from mbv3c.parity.inputs import inputs_of
from mbv3c.precision import INT8
from mbv3c.prepare import rewritten_for
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.lowering.device_graph import device_graph
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from mbv3c.targets.ethos_u.verify import operators_alone
from tests.variations import variation

_ONE_IN = 10  # of the models on which the rewrites are tried
_OF_TVM = ("relax", "call_tir", "dequantize", "Traceback", "object has no attribute")
_LONGEST = 400


def test_random_models_are_right_or_refused_in_words(request: pytest.FixtureRequest) -> None:
    wrong: dict[int, str] = {}
    right = 0
    for seed in range(max(request.config.getoption("--variations") // _ONE_IN, 1)):
        model = variation(seed)
        graph, _ = rewritten_for(model, INT8)
        quantized, _ = quantize(graph, random_inputs(model, 2), rank_layers=False)
        quantized = device_graph(rewritten_for(quantized, INT8)[0])
        try:
            region = npu_part(partition(quantized))
        except ModelError as error:
            words = str(error)
            if len(words.splitlines()) > 2 or len(words) > _LONGEST:
                wrong[seed] = f"too long: {words}"
            elif any(word in words for word in _OF_TVM):
                wrong[seed] = words
            continue
        alone = operators_alone(quantized, region, inputs_of(model)[0])
        right += 1
        if not alone.passed:
            wrong[seed] = f"{alone.worst} is {alone.lsb} LSB off (allowed {alone.allowed_lsb})"
    assert not wrong
    assert right
