"""The graph in torch computes what onnxruntime computes, and knows what it does not know."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import mbv3c
from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.load import input_shape_of, model_input
from mbv3c.graphs.spec import completed
from mbv3c.parity.running import session
from mbv3c.training.classifier import classes_in
from mbv3c.training.fresh import begun
from mbv3c.training.network import INFERENCE, TRAINING, Network, arrays, check_network
from mbv3c.training.operators import OPERATORS
from mbv3c.training.trainable import Trainable, trainable, with_weights
from tests.onnx_text import graph, random

NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"variant": "small", "width": 0.35},
    "large": {"variant": "large", "width": 0.35, "padding": "same", "minimalistic": True},
    "v2": {"network": "mobilenet_v2", "width": 0.35},
    "a1": {"network": "mnasnet_a1", "width": 0.35},
    "b1": {"network": "mnasnet_b1", "width": 0.35},
}
# Every operator that `build` does not write, in one graph.
OTHERS = """g (float[1, 3, 16, 16] image) => (float[1, 6] y) {
    padded = Pad(image, pads)
    a = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(padded, stem, stem_bias)
    b = BatchNormalization<epsilon = 0.01>(a, scale, shift, mean, variance)
    c = PRelu(b, slope)
    d = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(c)
    e = AveragePool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>(c)
    e2 = MaxPool<kernel_shape = [2, 2], strides = [2, 2], pads = [0, 0, 0, 0]>(e)
    e3 = AveragePool<kernel_shape = [2, 2]>(e2)
    f = Concat<axis = 1>(d, e3)
    left = LeakyRelu<alpha = 0.2>(f)
    elu = Elu<alpha = 0.7>(f)
    tanh = Tanh(elu)
    soft = Softplus(tanh)
    less = Sub(left, soft)
    gate = HardSigmoid<alpha = 0.3, beta = 0.4>(less)
    gated = Mul(less, gate)
    swapped = Transpose<perm = [0, 2, 3, 1]>(gated)
    back = Transpose<perm = [0, 3, 1, 2]>(swapped)
    most = GlobalMaxPool(back)
    mean_ = ReduceMean<axes = [2, 3], keepdims = 0>(back)
    row = Reshape(most, shape)
    thin = Unsqueeze(row, last)
    flat = Squeeze(thin, last)
    sum = Add(flat, mean_)
    kept = Identity(sum)
    product = MatMul(kept, dense)
    biased = Add(product, dense_bias)
    y = Softmax<axis = 1>(biased)
}"""


def others() -> onnx.ModelProto:
    stored: Mapping[str, NDArray[Any]] = {
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        "stem": random(8, 3, 3, 3),
        "stem_bias": random(8, seed=1),
        "scale": random(8, seed=2),
        "shift": random(8, seed=3),
        "mean": random(8, seed=4),
        "variance": np.abs(random(8, seed=5)),
        "slope": random(8, 1, 1, seed=6),
        "shape": np.array([1, -1], np.int64),
        "last": np.array([2], np.int64),
        "dense": random(16, 6, seed=7) / 16,  # else a softmax would make much of each rounding
        "dense_bias": random(6, seed=8),
    }
    return graph(OTHERS, **stored)


def error_of_range(made: Trainable, expected: onnx.ModelProto) -> float:
    """Return how far torch is from onnxruntime, which runs the other model image by image."""
    shape, network = input_shape_of(expected), Network(made)
    x = random(3, *shape[1:], seed=9)
    with torch.no_grad():
        scores = network.scores(
            torch.from_numpy(x), INFERENCE, network.weights, network.statistics
        ).numpy()
    opened, name = session(expected), model_input(expected).name
    theirs = np.concatenate([opened.run(None, {name: image[None]})[0] for image in x])
    if expected.graph.node[-1].op_type == "Softmax":
        scores = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return float(np.abs(scores - theirs).max() / np.ptp(theirs))


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_computes_what_onnxruntime_computes(name: str) -> None:
    model = build_model(completed({**NETWORKS[name], "resolution": 32, "classes": 10}))
    made = trainable(model, 3)
    assert error_of_range(made, model) < 1e-5
    # Every float of the graph is trained but the numbers of hard-swish.
    stored = {tensor.name for tensor in model.graph.initializer}
    assert {name for name in stored - set(made.kinds) if "hardswish" not in name} == set()


def test_other_operators_compute_what_onnxruntime_computes() -> None:
    model = others()
    made = trainable(model, 3)
    assert error_of_range(made, model) < 1e-5
    trained = {"stem", "stem_bias", "scale", "shift", "mean", "variance", "slope"}
    assert set(made.kinds) == {*trained, "dense", "dense_bias"}
    assert made.scores == "biased"
    covered = {node.op_type for one in (model, *NETWORKS_OF_OPERATORS) for node in one.graph.node}
    assert set(OPERATORS) <= covered


NETWORKS_OF_OPERATORS = [
    graph(
        """g (float[1, 4] x) => (float[1, 4] y) {
            a = Clip(x, low) b = Div(a, low) c = Relu(b) d = Sigmoid(c) e = HardSwish(d)
            f = Flatten(e) g = Gemm(f, dense) h = GlobalAveragePool(g) y = Identity(h)
        }""",
        low=np.array(0.5, np.float32),
        dense=random(4, 4),
    )
]


def test_weights_are_written_back_under_their_names(tiny_model: onnx.ModelProto) -> None:
    made = trainable(tiny_model, 4)
    network = Network(made)
    values = {**arrays(network.weights), **arrays(network.statistics)}
    assert with_weights(tiny_model, values) == tiny_model
    fresh = begun(made, fresh=True, seed=1)
    assert error_of_range(fresh, fresh.model) < 1e-5
    assert fresh.model != tiny_model


def test_a_batch_changes_statistics_and_every_weight_has_a_gradient(
    tiny_model: onnx.ModelProto,
) -> None:
    network = Network(begun(trainable(tiny_model, 4), fresh=True, seed=0))
    before = arrays(network.statistics)
    x = torch.from_numpy(random(4, 3, 8, 8))
    scores = network.scores(x, TRAINING, network.weights, network.statistics)
    scores.square().sum().backward()
    after = arrays(network.statistics)
    assert all((before[name] != after[name]).any() for name in before)
    still = {name for name, weight in network.weights.items() if not weight.grad.abs().sum()}
    assert still == set()


def test_constants_may_be_nodes() -> None:
    model = graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 2] y) {
            k = Constant<value = float[2, 3, 1, 1] {1, 2, 3, 4, 5, 6}>()
            a = Conv(x, k) b = GlobalAveragePool(a) y = Flatten(b)
        }"""
    )
    made = trainable(model, 2)
    assert (dict(made.kinds), made.normalized) == ({"k": "kernel"}, False)
    assert error_of_range(made, model) < 1e-5


@pytest.mark.parametrize("operator", ["Erf", "Softsign"])
def test_an_unknown_operator_is_named_with_its_node(operator: str) -> None:
    model = graph(
        f"g (float[1, 3] x) => (float[1, 2] y) {{ odd = {operator}(x) y = Gemm(odd, w) }}",
        w=random(3, 2),
    )
    with pytest.raises(ModelError, match=f"'odd' cannot be trained: its operator {operator} "):
        Network(trainable(model, 2))
    model.graph.node[0].name = "strange"
    with pytest.raises(ModelError, match=f"^'strange' cannot be trained: .* {operator} "):
        Network(trainable(model, 2))


def test_equal_tensors_that_are_stored_once_are_trained_apart() -> None:
    model = graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 2] y) {
            a = BatchNormalization(x, ones, zeros, zeros, ones)
            b = BatchNormalization(a, ones, zeros, zeros, ones)
            c = Conv(b, w) d = GlobalAveragePool(c) y = Flatten(d)
        }""",
        ones=np.ones(3, np.float32),
        zeros=np.zeros(3, np.float32),
        w=random(2, 3, 1, 1),
    )
    made = trainable(model, 4)
    network = Network(made)
    assert (set(network.weights), len(network.statistics)) == ({"ones", "zeros", "w"}, 4)
    x = torch.from_numpy(random(4, 3, 8, 8))
    network.scores(x, TRAINING, network.weights, network.statistics).sum().backward()
    values = {**arrays(network.weights), **arrays(network.statistics)}
    trained = with_weights(made.model, values)
    assert error_of_range(trainable(trained, 4), trained) < 1e-5
    first, second = (trained.graph.node[place].input[3] for place in (0, 1))
    assert (values[first] != values[second]).any()


def test_weights_may_be_turned_and_an_old_softmax_is_over_all_that_follows() -> None:
    model = graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 2] y) {
            a = Softmax(x) b = GlobalAveragePool(a) c = Flatten(b)
            turned = Transpose(w) y = MatMul(c, turned)
        }""",
        w=random(2, 3),
    )
    model.opset_import[0].version = 11
    made = trainable(model, 3)
    assert list(made.kinds.values()) == ["matrix"]
    assert error_of_range(made, made.model) < 1e-5


def test_what_torch_computes_otherwise_or_not_at_all_is_refused() -> None:
    text = "g (float[1, 3] x) => (float[1, 2] y) {{ a = {}(x) y = Gemm(a, w) }}"
    relu, tanh = (graph(text.format(name), w=random(3, 2)) for name in ("Relu", "Tanh"))
    x = torch.from_numpy(random(2, 3))
    check_network(Network(trainable(relu, 2)), trainable(relu, 2), x)
    with pytest.raises(ModelError, match="torch computes other class scores than onnxruntime"):
        check_network(Network(trainable(relu, 2)), trainable(tanh, 2), x)
    row = graph(
        """g (float[1, 3, 4] x) => (float[1, 2] y) {
            a = Conv(x, w) b = GlobalAveragePool(a) y = Flatten(b)
        }""",
        w=random(2, 3, 1),
    )
    with pytest.raises(ModelError, match=r"makes 'a' \(Conv\) .* must be over two"):
        made = trainable(row, 2)
        check_network(Network(made), made, torch.from_numpy(random(2, 3, 4)))


def test_what_loses_the_batch_is_refused() -> None:
    text = "g (float[1, 3] x) => (float[1, 2] y) { a = Reshape(x, one) y = MatMul(a, w) }"
    model = graph(text, one=np.array([1, 3], np.int64), w=random(3, 2))
    Network(trainable(model, 2))
    mean = "a = ReduceMean<axes = [0], keepdims = 0>(x) y = MatMul(a, w)"
    lost = graph(f"g (float[1, 3] x) => (float[2] y) {{ {mean} }}", w=random(3, 2))
    with pytest.raises(ModelError, match="ReduceMean"):
        trainable(lost, 2)


def test_without_weights_or_in_other_types_it_is_refused() -> None:
    model = graph("g (float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="no weights to train"):
        trainable(model, 2)
    double = graph(
        "g (float[1, 3] x) => (double[1, 2] y) { a = Cast<to = 11>(x) y = Gemm(a, w) }",
        w=random(3, 2).astype(np.float64),
    )
    with pytest.raises(ModelError, match="'w' are not of fp32"):
        trainable(double, 2)


@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_other_heads_are_refused_in_words(head: str) -> None:
    model = graph("g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match="one row of class scores per image; this gives y"):
        classes_in(model)
    model.metadata_props.add(key="mbv3c.head", value=head)
    with pytest.raises(UsageError, match=f"train is for classifiers, and .* \\(head {head}\\)"):
        classes_in(model)


def test_only_what_trains_imports_torch() -> None:
    """torch stands in few modules, and none of the others imports these when it is imported."""
    ours = "small_maps|operators|network|loop"
    imports = re.compile(rf"^(import|from) (torch\b|mbv3c\.training\.({ours}) )", re.MULTILINE)
    package = Path(mbv3c.__file__).parent
    found = {path for path in package.rglob("*.py") if imports.search(path.read_text())}
    assert found == {package / "training" / f"{name}.py" for name in ours.split("|")}
