"""LSTM, GRU and RNN, step by step, are what onnxruntime computes."""

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes.unroll_recurrent import unroll_recurrent
from tests.onnx_text import graph, random
from tests.passes.rewriting import fires, ignores, operators, refuses

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
STEPS, BATCH, INPUTS, HIDDEN = 5, 2, 4, 7
EVERYTHING = ("bias", "initial_h", "initial_c")

# What onnxruntime approximates sigmoid and tanh by adds up over the steps.
TOLERANCE = 1e-6


def recurrent(
    op_type: str,
    given: tuple[str, ...] = ("bias",),
    *,
    outputs: tuple[str, ...] = ("y", "y_h", "y_c"),
    size: tuple[int, int] = (STEPS, BATCH),
    opset: int = 17,
    lengths: list[int] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a recurrent layer whose input is `x`; `given` names its optional inputs."""
    steps, batch = size
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows, made = GATES[op_type] * HIDDEN, np.random.default_rng(0)
    states = (directions, batch, HIDDEN)
    shapes = {
        "w": (directions, rows, INPUTS),
        "r": (directions, rows, HIDDEN),
        "bias": (directions, 2 * rows),
        "initial_h": states,
        "initial_c": states,
        "peephole": (directions, 3 * HIDDEN),
    }
    names = ["w", "r", "bias", "lengths", "initial_h"]
    names += ["initial_c", "peephole"] if op_type == "LSTM" else []
    used = {"w", "r", *given, *(["lengths"] if lengths else [])}
    inputs = ["x", *(name if name in used else "" for name in names)]
    stored = [
        numpy_helper.from_array(made.normal(0, 0.7, shape).astype(np.float32), name)
        for name, shape in shapes.items()
        if name in inputs
    ]
    if lengths:
        stored.append(numpy_helper.from_array(np.array(lengths, np.int32), "lengths"))
    while not inputs[-1]:
        inputs.pop()
    last = 3 if op_type == "LSTM" else 2
    kept = [name if name in outputs else "" for name in ("y", "y_h", "y_c")[:last]]
    node = helper.make_node(op_type, inputs, kept, "layer", hidden_size=HIDDEN, **attributes)
    body = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, batch, INPUTS))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in kept if name],
        stored,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def agrees(model: onnx.ModelProto) -> list[str]:
    rewritten, report = fires(unroll_recurrent, model, TOLERANCE)
    assert report.matched == ("layer",)
    assert not {"LSTM", "GRU", "RNN"} & {*operators(rewritten)}
    x = random(*(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim))
    pairs = zip(*(run(session(each), x) for each in (rewritten, model)), strict=True)
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert error_of_range(ours, theirs) <= TOLERANCE
    return operators(rewritten)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op_type", GATES)
def test_directions_and_what_is_given(op_type: str, direction: str) -> None:
    for given in ((), ("bias",), EVERYTHING):
        for size in ((STEPS, BATCH), (STEPS, 1), (1, 1)):
            agrees(recurrent(op_type, given, size=size, direction=direction))


@pytest.mark.parametrize("opset", [14, 18, 22])
@pytest.mark.parametrize("op_type", GATES)
def test_opsets(op_type: str, opset: int) -> None:
    agrees(recurrent(op_type, EVERYTHING, opset=opset, direction="bidirectional"))


@pytest.mark.parametrize("output", ["y", "y_h", "y_c"])
def test_one_output_alone(output: str) -> None:
    agrees(recurrent("LSTM", outputs=(output,), direction="bidirectional"))


@pytest.mark.parametrize("op_type", GATES)
def test_clip(op_type: str) -> None:
    for given, direction in product(((), EVERYTHING), ("forward", "bidirectional")):
        agrees(recurrent(op_type, given, clip=0.4, direction=direction))


@pytest.mark.parametrize("more", [{}, {"clip": 0.4}, {"input_forget": 1}])
def test_peepholes(more: dict[str, float]) -> None:
    agrees(recurrent("LSTM", (*EVERYTHING, "peephole"), direction="bidirectional", **more))


@pytest.mark.parametrize("given", [(), EVERYTHING])
def test_coupled_gates(given: tuple[str, ...]) -> None:
    made = agrees(recurrent("LSTM", given, input_forget=1))
    assert made.count("Sigmoid") == 2 * STEPS


@pytest.mark.parametrize("clip", [{}, {"clip": 0.4}])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_reset_behind_the_product(direction: str, clip: dict[str, float]) -> None:
    for given in ((), EVERYTHING):
        made = agrees(recurrent("GRU", given, linear_before_reset=1, direction=direction, **clip))
        assert made.count("MatMul") == STEPS


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", {}),
        ("Softsign", {}),
        ("Softplus", {}),
        ("Elu", {"activation_alpha": [0.7]}),
        ("LeakyRelu", {"activation_alpha": [0.3]}),
        ("HardSigmoid", {"activation_alpha": [0.3], "activation_beta": [0.4]}),
        ("HardSigmoid", {}),
    ],
)
@pytest.mark.parametrize("op_type", GATES)
def test_activations(op_type: str, activation: str, parameters: dict[str, list[float]]) -> None:
    for place in range(len(USUAL[op_type])):
        names = [*USUAL[op_type]]
        names[place] = activation
        # One step: gates without bounds let any rounding grow.
        model = recurrent(op_type, size=(1, BATCH), activations=names, **parameters)
        rewritten, _ = unroll_recurrent(model)
        x = random(1, BATCH, INPUTS)
        pairs = zip(*(run(session(each), x) for each in (rewritten, model)), strict=True)
        assert max(error_of_range(*pair) for pair in pairs) <= TOLERANCE


def test_activations_of_both_directions() -> None:
    names = ["HardSigmoid", "Relu", "Tanh"] * 2
    agrees(recurrent("LSTM", activations=names, direction="bidirectional"))


def test_lengths_that_are_the_whole_input() -> None:
    agrees(recurrent("GRU", lengths=[STEPS] * BATCH))


def test_states_that_are_computed() -> None:
    text = """
        g (float[3, 1, 4] x) => (float[3, 1, 1, 3] y) {
            s = ReduceMean <axes = [0, 2], keepdims = 1> (x)
            h = Mul (s, ones)
            y = RNN <hidden_size = 3> (x, w, r, , , h)
        }
    """
    stored = {"w": random(1, 3, 4), "r": random(1, 3, 3), "ones": np.ones((1, 1, 3), np.float32)}
    fires(unroll_recurrent, graph(text, **stored), TOLERANCE)


def test_layers_one_upon_the_other() -> None:
    text = """
        g (float[3, 1, 4] x) => (float[3, 1, 1, 3] y) {
            a = RNN <hidden_size = 3> (x, w, r)
            b = Squeeze (a, axes)
            y = GRU <hidden_size = 3> (b, v, u)
        }
    """
    stored = {"w": random(1, 3, 4), "r": random(1, 3, 3), "axes": np.array([1])}
    stored |= {"v": random(1, 9, 3), "u": random(1, 9, 3)}
    _, report = fires(unroll_recurrent, graph(text, **stored), TOLERANCE)
    assert report.matched == ("RNN", "GRU")


def test_all_steps_share_a_product_and_their_weights() -> None:
    short, long = (unroll_recurrent(recurrent("LSTM", size=(steps, 1)))[0] for steps in (3, 30))
    assert operators(long).count("Gemm") == 1
    assert len(long.graph.initializer) == len(short.graph.initializer)


DIFFERENT = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (recurrent("LSTM", layout=1), "its batch comes first (layout 1), which onnxruntime does"),
        (recurrent("LSTM", lengths=[5, 4]), "its sequences are of other lengths than its input"),
        (recurrent("RNN", size=(513, 1)), "it has 513 steps in all; up to 512 are unrolled"),
        (
            recurrent("RNN", size=(257, 1), direction="bidirectional"),
            "it has 514 steps in all; up to 512 are unrolled",
        ),
        (
            recurrent("RNN", activations=["Affine"]),
            "its activation 'Affine' has no other spelling",
        ),
        (
            recurrent("LSTM", direction="bidirectional", activations=DIFFERENT),
            "its directions have different activations",
        ),
        (recurrent("GRU", opset=11), "what it is made of needs opset 13, the model has 11"),
    ],
)
def test_what_stays(model: onnx.ModelProto, reason: str) -> None:
    assert refuses(unroll_recurrent, model).startswith(reason)


def test_what_is_computed_when_the_model_runs_stays() -> None:
    text = """
        g (float[3, 1, 4] x, float[1, 3, 4] w) => (float[3, 1, 1, 3] y) {
            y = RNN <hidden_size = 3> (x, w, r)
        }
    """
    reason = refuses(unroll_recurrent, graph(text, r=random(1, 3, 3)))
    assert reason == "its weights, 'w', cannot be computed before the model runs"
    text = "g (float[N, 1, 4] x) => (float[N, 1, 1, 3] y) { y = RNN <hidden_size = 3> (x, w, r) }"
    reason = refuses(unroll_recurrent, graph(text, w=random(1, 3, 4), r=random(1, 3, 3)))
    assert reason == "the shape of 'x' is not fixed"


def test_others_stay() -> None:
    ignores(unroll_recurrent, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
