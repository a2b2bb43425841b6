"""What quantizing cost is said, and where, if it is much."""

from dataclasses import replace

import pytest

from mbv3c.quantization.loss import loss_of
from mbv3c.quantization.report import LayerError, OutputError, QuantizationReport, TensorError

REPORT = QuantizationReport(
    calibration="8 inputs",
    random_inputs=False,
    calibrated_on=6,
    measured_on=8,
    held_out=True,
    method="minmax",
    activations="int8",
    outputs=(
        OutputError("a", 30.0, 0.999, 0.01, None, None),
        OutputError("b", 20.0, 0.99, 0.02, 0.99, 0.9),
    ),
    layers=(LayerError("conv", ("Conv",), None, None, None),),
    tensors=(TensorError("t", "conv", -1.0, 1.0, 12.0, 0.9, 3.0),),
    left_float={},
)


def worse(cosine: float, top1: float) -> QuantizationReport:
    first, last = REPORT.outputs
    return replace(REPORT, outputs=(first, replace(last, cosine=cosine, top1_agreement=top1)))


def test_a_small_loss_is_said_in_a_line() -> None:
    loss = loss_of(REPORT)
    assert loss is not None
    assert loss.lines() == [
        "int8 beside fp32 on 8 held-out calibration inputs: cosine 0.9900, 99.0% of classes agree"
    ]
    assert loss.to_json()["too_far"] is False


@pytest.mark.parametrize(("cosine", "top1"), [(0.979, 1.0), (0.999, 0.979)])
def test_a_large_loss_is_a_warning_with_a_place(cosine: float, top1: float) -> None:
    loss = loss_of(worse(cosine, top1))
    assert loss is not None
    (line,) = loss.lines()
    assert line.startswith("WARNING: int8 beside fp32 on 8 held-out")
    assert "most is lost in: t 3.0 dB (of conv)" in line
    layer = LayerError("gate", ("Mul",), 9.0, 0.8, None)
    ranked = loss_of(replace(worse(cosine, top1), layers=(layer,)))
    assert ranked is not None
    assert "most is lost in: gate 9.0 dB;" in ranked.lines()[0]


def test_random_inputs_show_no_loss() -> None:
    assert loss_of(None) is None
    assert loss_of(replace(REPORT, random_inputs=True)) is None
