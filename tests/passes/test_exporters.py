"""A network as each exporter spells it ends with the operators of our own."""

from collections import Counter
from functools import cache

import onnx
import pytest

from mbv3c.graphs.load import model_input, static_shape
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.reference import error_of_range, parity_inputs, run, session
from tests.passes.exporters import EXPORTERS, optimized_by, own, written
from tests.passes.rewriting import operators
from tests.passes.test_pipeline import TOLERANCE, optimized

STAYS = "the shift stays: Conv pads with zeros behind it, which are other numbers before it"


@cache
def our_operators(spec: ModelSpec) -> Counter[str]:
    return Counter(operators(optimized(own(spec))[0]))


@pytest.mark.parametrize("name", EXPORTERS)
def test_ends_as_our_own(name: str) -> None:
    exporter = EXPORTERS[name]
    model = written(exporter)
    counts = Counter(operators(model))
    assert {op: n for op, n in counts.items() if op not in ("Identity", "Constant")} == dict(
        exporter.operators
    )
    read, rewritten, reports = optimized_by(name)
    onnx.checker.check_model(rewritten, full_check=True)
    assert Counter(operators(rewritten)) == our_operators(exporter.spec) + Counter(exporter.left)
    reasons = {refusal.reason for report in reports for refusal in report.refused}
    assert reasons == ({STAYS} if "Add" in exporter.left else set())
    shape = static_shape(model_input(model))
    assert shape is not None
    x = parity_inputs(shape)[0]
    # Where image and logits are the same as ours, so is what lies between them.
    wanted = read if exporter.left else own(exporter.spec)
    assert error_of_range(run(session(rewritten), x)[0], run(session(wanted), x)[0]) <= TOLERANCE
