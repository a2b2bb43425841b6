"""What a rewritten graph may be off, output by output."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mbv3c.errors import ParityError
from mbv3c.feeds import Feed
from mbv3c.parity.inputs import inputs_of
from mbv3c.parity.reference import ReferenceOutput, run_reference
from mbv3c.parity.rewriting import check_rewritten
from tests.parity import cancelling

Known = tuple[onnx.ModelProto, list[Feed], list[list[ReferenceOutput]]]


@pytest.fixture(scope="module")
def known() -> Known:
    """Return a model of three outputs: fp32 computes `y` badly, `z` well, and `w` to no number."""
    model = cancelling.weights_sum_to_nothing()
    inputs = inputs_of(model)[:2]
    for name, operator, source in (("z", "Tanh", "x"), ("b", "Abs", "x"), ("n", "Neg", "b")):
        model.graph.node.append(helper.make_node(operator, [source], [name]))
    model.graph.node.append(helper.make_node("Sqrt", ["n"], ["w"]))
    for name in ("z", "w"):
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(helper.make_tensor_value_info(name, kind, (1, 4, 8, 8)))
    return model, inputs, list(run_reference(model, inputs))


def moved(
    model: onnx.ModelProto, references: Sequence[ReferenceOutput], name: str, by: float
) -> onnx.ModelProto:
    """Return a model of which an output is off by a fraction of its range."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (made,) = (node for node in copy.graph.node if name in node.output)
    made.output[0] = "before"
    (wanted,) = (one for one in references if one.name == name)
    span = np.float32(by * wanted.span) if np.isfinite(wanted.span) else np.float32(by)
    copy.graph.initializer.append(numpy_helper.from_array(np.asarray(span), "moved_by"))
    copy.graph.node.append(helper.make_node("Add", ["before", "moved_by"], [name]))
    return copy


# Of `y` float64 allows 1e-4, and rewriting twice as much; 8e-5 is onnxruntime's own rounding.
@pytest.mark.parametrize(
    ("name", "by", "right"),
    [
        ("y", 1e-5, True),
        ("y", 1e-4, True),
        ("y", 3e-4, False),
        ("z", 5e-6, True),
        ("z", 1.5e-5, False),  # that `y` may be twice as far off is no matter here
        ("w", 1.0, True),
    ],
)
def test_every_output_is_judged_by_itself(known: Known, name: str, by: float, right: bool) -> None:
    model, inputs, references = known
    rewritten = moved(model, references[0], name, by)
    if right:
        check_rewritten(model, rewritten, inputs, references)
        return
    with pytest.raises(ParityError, match=f"changes what the model computes: .* in {name} "):
        check_rewritten(model, rewritten, inputs, references)
