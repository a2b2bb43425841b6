"""Seeded weights: the same everywhere, and such that a wrong rewrite shows in the logits."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session


def parameters(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def batchnorms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_the_same_seed_gives_the_same_bytes(small: onnx.ModelProto) -> None:
    assert build_model(ModelSpec("small")).SerializeToString() == small.SerializeToString()


def test_another_seed_gives_other_weights(small: onnx.ModelProto) -> None:
    other = parameters(build_model(ModelSpec("small", seed=1)))
    constants = {"hardswish.three", "hardswish.zero", "hardswish.six"}
    for name, array in parameters(small).items():
        assert np.array_equal(array, other[name]) == (name in constants), name


def test_weights_do_not_depend_on_resolution_and_batch(small: onnx.ModelProto) -> None:
    other = parameters(build_model(ModelSpec("small", resolution=96, batch=2)))
    for name, array in parameters(small).items():
        np.testing.assert_array_equal(other[name], array, name)


def test_features_do_not_depend_on_classes(small: onnx.ModelProto) -> None:
    other = parameters(build_model(ModelSpec("small", classes=10)))
    for name, array in parameters(small).items():
        if not name.startswith("classifier.3"):
            np.testing.assert_array_equal(other[name], array, name)


def test_every_weight_is_finite_and_used(network: onnx.ModelProto) -> None:
    for name, array in parameters(network).items():
        assert array.dtype == np.float32
        assert np.isfinite(array).all(), name
        if array.ndim > 1:
            assert np.count_nonzero(array) == array.size, name


def test_batchnorm_statistics_are_not_trivial(network: onnx.ModelProto) -> None:
    """With mean 0, variance 1, scale 1 or shift 0 a wrong fold would go unseen."""
    arrays = parameters(network)
    for node in batchnorms(network):
        scale, shift, mean, variance = (arrays[name] for name in node.input[1:])
        assert (variance > 0).all()
        for values, trivial in ((scale, 1), (shift, 0), (mean, 0), (variance, 1)):
            assert np.abs(values - trivial).max() > 0.05, node.name
            assert len(np.unique(values)) > len(values) / 2, node.name


@pytest.mark.parametrize("seed", [1, 2])
def test_logits_depend_on_the_input(network: onnx.ModelProto, seed: int) -> None:
    """Signals that die or explode on the way would make every parity check worthless."""
    rng = np.random.default_rng(seed)
    images = [rng.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(3)]
    images += parity_inputs((1, 3, 224, 224))
    opened = session(network)
    logits = np.concatenate([run(opened, x)[0] for x in images])
    assert 0.2 < logits.std(axis=0).mean() < 5


def test_gates_of_squeeze_and_excite_move(small: onnx.ModelProto) -> None:
    """A gate that is always shut or always open would hide its own fold."""
    gates = [node.output[0] for node in small.graph.node if node.name.endswith(".se.gate.div")]
    watched = onnx.ModelProto()
    watched.CopyFrom(small)
    watched.graph.output.extend(onnx.ValueInfoProto(name=gate) for gate in gates)
    opened = session(watched)
    x = parity_inputs((1, 3, 224, 224))[0]
    for gate, values in zip(gates, opened.run(gates, {"input": x}), strict=True):
        between = ((values > 0) & (values < 1)).mean()
        assert between > 0.5, gate


def test_classes_are_not_all_the_same(network: onnx.ModelProto) -> None:
    opened = session(network)
    winners = {int(run(opened, x)[0].argmax()) for x in parity_inputs((1, 3, 224, 224))}
    assert len(winners) > 1


def wrong(model: onnx.ModelProto, name: str, epsilon: float, mean: float) -> onnx.ModelProto:
    """Return the model with one BatchNormalization's epsilon set and its mean multiplied."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = next(node for node in changed.graph.node if node.name == name)
    node.attribute[0].f = epsilon
    tensor = next(t for t in changed.graph.initializer if t.name == node.input[3])
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(mean), tensor.name)
    )
    return changed


@pytest.mark.parametrize(
    ("epsilon", "mean"),
    [
        pytest.param(1e-5, 1.0, id="the default epsilon"),
        pytest.param(1e-3, 1.01, id="a mean wrong by 1 %"),
        pytest.param(1e-3, 0.0, id="a mean that was forgotten"),
    ],
)
@pytest.mark.parametrize("name", ["features.1.depthwise.bn", "features.7.project.bn"])
def test_one_wrong_fold_shows(
    network: onnx.ModelProto, name: str, epsilon: float, mean: float
) -> None:
    """The error is over ten times what parity allows."""
    x = parity_inputs((1, 3, 224, 224))[0]
    right = run(session(network), x)[0]
    assert error_of_range(run(session(wrong(network, name, 1e-3, 1.0)), x)[0], right) == 0
    assert error_of_range(run(session(wrong(network, name, epsilon, mean)), x)[0], right) > 1e-4
