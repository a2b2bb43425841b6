"""Convert a model to another operator set, and make sure that its results stay equal."""

from functools import partial

import onnx

from mbv3c.errors import ModelError
from mbv3c.parity.proof import prove
from mbv3c.passes.convert_opset import convert_opset
from mbv3c.passes.proving import run_proved
from mbv3c.passes.report import PassReport


def in_opset(model: onnx.ModelProto, opset: int) -> tuple[onnx.ModelProto, PassReport]:
    """Convert a model, and always prove the conversion: its file is what somebody asks for.

    Raises:
        UsageError: mbv3c does not write this operator set.
        ModelError: the model cannot be written in it, or would compute something else there.
    """
    converted, report = run_proved(partial(convert_opset, opset=opset), model, prove)
    if not all(proof.verdict.passed for proof in report.proofs):
        raise ModelError(
            f"the model, converted to opset {opset}, computes something else: "
            f"{report.proofs[0].verdict.reason}; choose another --opset"
        )
    return converted, report
