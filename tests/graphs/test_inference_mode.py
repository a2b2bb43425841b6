"""What torch exports in training mode is read in inference mode, and what uses it is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.errors import ModelError
from mbv3c.graphs.inference_mode import inference_mode
from mbv3c.graphs.load import load_model
from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes import run_pipeline

# The forms of BatchNormalization, as torch 2.13 writes them: opset, attribute, further outputs.
TRAINED = {
    "opset 14 and later": (17, "<training_mode = 1, momentum = 0.9>", ", m2, v2"),
    "before opset 14": (13, "<momentum = 0.9>", ", m2, v2, m3, v3"),
    "opset 11": (11, "", ", m2, v2, m3, v3"),
}
KEPT = {"opset 17": (17, "<training_mode = 0>", ""), "opset 13": (13, "", "")}


def network(opset: int, attributes: str, outputs: str, dropout: str = "") -> onnx.ModelProto:
    """Return a convolution, its BatchNormalization in this form, and Dropout."""
    text = f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) {{
            c = Conv(x, w)
            [bn] b{outputs} = BatchNormalization {attributes} (c, s, t, m, v)
            {dropout or "y = Relu(b)"}
        }}
    """
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 3, 3, 3))}
    arrays |= {name: rng.uniform(0.5, 2, 4) for name in "stmv"}
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("form", [*TRAINED, *KEPT])
def test_every_form_folds_with_the_statistics_of_training(form: str) -> None:
    opset, attributes, outputs = (TRAINED | KEPT)[form]
    read, trained = inference_mode(network(opset, attributes, outputs))
    assert trained == (("bn",) if form in TRAINED else ())
    rewritten, reports = run_pipeline(read)
    assert Counter(node.op_type for node in rewritten.graph.node) == Counter(Conv=1, Relu=1)
    assert [r for report in reports for r in report.refused] == []
    wanted = session(network(17, "", ""))
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert error_of_range(run(session(rewritten), x)[0], run(wanted, x)[0]) <= 1e-6


@pytest.mark.parametrize("stored", [True, False])
def test_dropout_in_training_mode_passes_on_what_it_is_given(stored: bool) -> None:
    model = network(
        *KEPT["opset 17"],
        "ratio = Constant <value_float = 0.2> () on = Constant <value = bool on {1}> () "
        "r = Relu(b) [drop] y, mask = Dropout(r, ratio, on)",
    )
    if stored:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
        del model.graph.node[3]
    read, trained = inference_mode(model)
    assert trained == ("drop",)
    rewritten, _ = run_pipeline(read)
    assert [node.op_type for node in rewritten.graph.node] == ["Conv", "Relu"]


def test_a_model_in_inference_mode_stays_as_it_is() -> None:
    model = network(17, "<training_mode = 0>", "", "r = Relu(b) y = Dropout(r)")
    read, trained = inference_mode(model)
    assert read is model
    assert trained == ()


def test_refuses_running_statistics_that_are_used() -> None:
    model = network(
        17, "<training_mode = 1>", ", m2, v2", "r = Relu(b) n = Neg(m2) y = Identity(r)"
    )
    with pytest.raises(ModelError, match=r"'m2' is used: export the model in evaluation mode"):
        inference_mode(model)


def test_refuses_a_mask_that_is_used() -> None:
    drop = (
        "on = Constant <value = bool on {1}> () d, mask = Dropout(b, , on) y = Where(mask, d, b)"
    )
    with pytest.raises(ModelError, match="'mask' is used"):
        inference_mode(network(17, "", "", drop))


def test_loading_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    onnx.save(network(*TRAINED["opset 14 and later"]), tmp_path / "trained.onnx")
    model = load_model(tmp_path / "trained.onnx")
    assert "is in training mode (1 nodes); it is read in inference mode" in caplog.text
    assert list(model.graph.node[1].output) == ["b"]
