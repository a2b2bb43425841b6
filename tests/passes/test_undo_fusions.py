"""What onnxruntime fused when it saved a model is ONNX again."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mbv3c.passes.undo_fusions import undo_fusions
from tests.onnx_text import graph, random
from tests.passes.rewriting import error, ignores, leaves_alone, operators

CONV = "[conv] c = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
SPELLINGS = {
    "Relu": f"{CONV} y = Relu (c)",
    "Clip": f"{CONV} y = Clip (c, low, high)",
    "LeakyRelu": f"{CONV} y = LeakyRelu <alpha = 0.2> (c)",
    "HardSigmoid": f"{CONV} y = HardSigmoid <alpha = 0.3> (c)",
    "Tanh": f"{CONV} y = Tanh (c)",
    "Gelu": f"{CONV} d = Div (c, root) e = Erf (d) f = Add (e, one) g = Mul (c, f) "
    "y = Mul (g, half)",
    "QuickGelu": f"{CONV} d = Mul (c, k) e = Sigmoid (d) y = Mul (c, e)",
    "MatMul": "t = Transpose <perm = [0, 1, 3, 2]> (x) m = MatMul (t, x) y = Mul (m, half)",
}


def spelled(body: str) -> onnx.ModelProto:
    numbers = {"low": 0, "high": 6, "root": 2**0.5, "one": 1, "half": 0.5, "k": 1.702}
    used = {name: np.array(value, np.float32) for name, value in numbers.items()}
    text = f"g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y) {{ {body} }}"
    return graph(text, w=random(8, 8, 3, 3) / 4, b=random(8), **used)


def saved(model: onnx.ModelProto, folder: Path, level: str) -> onnx.ModelProto:
    """Return what onnxruntime writes after optimising a model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_onnxruntime_saves(name: str, tmp_path: Path) -> None:
    given = spelled(SPELLINGS[name])
    optimized = saved(given, tmp_path, "ORT_ENABLE_EXTENDED")
    assert any(node.domain == "com.microsoft" for node in optimized.graph.node)
    rewritten, report = undo_fusions(optimized)
    assert report.matched
    assert not any(node.domain for node in rewritten.graph.node)
    onnx.checker.check_model(rewritten)
    assert error(given, rewritten) <= 1e-6


FUSED = """
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[1, 8, 6, 6] x, float[1, 8, 6, 6] z) => (float[1, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[8] b, float[8] c> {{ [fused] y = {} }}
"""


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (
            'com.microsoft.FusedConv <activation = "Relu"> (x, w, b, x)',
            ["Conv", "Add", "Relu"],
        ),
        ("com.microsoft.FusedConv (x, w, b, x)", ["Conv", "Add"]),
        ("com.microsoft.FastGelu (x)", ["Mul"] * 3 + ["Add", "Mul", "Tanh", "Mul", "Add", "Mul"]),
        ("com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, x)", None),
    ],
)
def test_single_calls(call: str, left: list[str] | None) -> None:
    text = FUSED.format(call).replace(", float[1, 8, 6, 6] z)", ")")
    text = text.replace("<float[8, 8, 1, 1] w, float[8] b, float[8] c>", "")
    model = onnx.parser.parse_model(text)
    for name, array in (("w", random(8, 8, 1, 1)), ("b", random(8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    rewritten, report = undo_fusions(model)
    assert report.matched == ("fused",)
    assert left is None or operators(rewritten) == left
    assert rewritten.graph.node[-1].name == "fused"
    assert error(model, rewritten) <= 1e-6


def test_a_batch_that_moves_is_refused() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2, 2, 2, 2] x) => (float[2, 2, 2, 2] y) {
            [fused] y = com.microsoft.FusedMatMul <transBatchA = 1> (x, x)
        }
    """)
    (refusal,) = leaves_alone(undo_fusions, model).refused
    assert (refusal.node, "it moves the batch" in refusal.reason) == ("fused", True)


def test_onnx_alone_stays() -> None:
    ignores(undo_fusions, graph("g (float[4] x) => (float[4] y) { y = Relu(x) }"))


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_constants_are_of_the_models_type(dtype: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g ({dtype}[2, 4] x) => ({dtype}[2, 4] y) {{
            [fused] y = com.microsoft.QuickGelu <alpha = 1.5> (x)
        }}
    """)
    rewritten, _ = undo_fusions(model)
    onnx.checker.check_model(rewritten, full_check=True)
    x = random(2, 4).astype({"float16": np.float16, "double": np.float64}[dtype])
    ours, wanted = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (rewritten, model)
    )
    pair = (each.run(None, {"x": x})[0].astype(np.float64) for each in (ours, wanted))
    np.testing.assert_allclose(*pair, atol=2e-3)


def test_what_an_old_opset_lacks_is_refused() -> None:
    model = onnx.parser.parse_model(
        FUSED.replace(", float[1, 8, 6, 6] z", "")
        .replace("17", "13")
        .format('com.microsoft.FusedConv <activation = "HardSwish"> (x, w)')
    )
    (refusal,) = leaves_alone(undo_fusions, model).refused
    assert refusal.reason == "HardSwish needs opset 14, the model has 13"


def test_names_that_are_taken() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 4] x) => (float[1, 4] y) {
            h = com.microsoft.Gelu (x)
            n = Neg (x)
            y = Add (h, n)
        }
    """)
    model.graph.node[1].output[0] = model.graph.node[2].input[1] = "h.1"
    rewritten, _ = undo_fusions(model)
    assert error(model, rewritten) <= 1e-6


@pytest.mark.parametrize(("kind", "zero"), [("u2", 32768), ("u2", 100), ("i2", 0), ("i2", -7)])
def test_pairs_of_16_bits_before_opset_21(kind: str, zero: int) -> None:
    """As onnxruntime's quantizer writes them; ONNX has them from opset 21 on."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y) {
            q = com.microsoft.QuantizeLinear (x, s, z)
            y = com.microsoft.DequantizeLinear (q, s, z)
        }""")
    stored = {"s": np.array(5e-5, np.float32), "z": np.array(zero, kind)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(x, n) for n, x in stored.items())
    rewritten, report = undo_fusions(model)
    assert len(report.matched) == 2
    assert not any(node.domain for node in rewritten.graph.node)
    assert error(model, rewritten) == 0  # some of it saturates


@pytest.mark.parametrize(
    ("kind", "largest"),
    [(TensorProto.INT4, 7), (TensorProto.UINT4, 15), (TensorProto.INT32, 9000)],
)
def test_constants_of_a_pair_per_channel(kind: int, largest: int) -> None:
    """Weights of 4 bits, and biases of 32, as onnxruntime's quantizer writes them in opset 17."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1, 8] x) => (float[6, 8] y) {
            w = com.microsoft.DequantizeLinear <axis = 0> (q, s, z)
            y = Add (x, w)
        }""")
    numbers = np.random.default_rng(0).integers(0, largest, 48)
    zeros = np.zeros(6, np.int64) if kind == TensorProto.INT32 else np.arange(6)
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.linspace(0.1, 0.6, 6).astype(np.float32), "s"),
            helper.make_tensor("q", kind, [6, 8], numbers.tolist()),
            helper.make_tensor("z", kind, [6], zeros.tolist()),
        ]
    )
    rewritten, report = undo_fusions(model)
    assert len(report.matched) == 1
    onnx.checker.check_model(rewritten, full_check=True)
    assert kind == TensorProto.INT32 or "q" not in [t.name for t in rewritten.graph.initializer]
    assert error(model, rewritten) == 0
