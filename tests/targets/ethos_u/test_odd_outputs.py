"""On NPUs: nodes without names, positions of TopK, constant outputs, single numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import mbv3c
from mbv3c.errors import Mbv3cError
from mbv3c.parity.agreement import cosines
from mbv3c.parity.reference import ReferenceOutput
from tests.onnx_text import graph, random

NPU = mbv3c.JobSpec("npu:ethos-u55-128", precision="int8")
_PAIR = "{1} = QuantizeLinear ({0}, s, o) {2} = DequantizeLinear ({1}, s, o)"


def positions() -> onnx.ModelProto:
    """Return a quantized network whose nodes have no names, with the best of its scores."""
    model = graph(
        "g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y, int64[1, 5] i, float[2] c) {"
        f"{_PAIR.format('x', 'q', 'd')}"
        " w = DequantizeLinear (wq, s, o) a = Conv <pads = [1, 1, 1, 1]> (d, w)"
        f"{_PAIR.format('a', 'e', 'f')}"
        " v = DequantizeLinear (vq, s, o) b = Conv (f, v)"
        f"{_PAIR.format('b', 'h', 'y')}"
        " l = Flatten (y) t, i = TopK (l, k) c = Identity (n) }",
        s=np.array(0.05, np.float32),
        o=np.array(0, np.int8),
        wq=(random(8, 3, 3, 3) * 10).astype(np.int8),
        vq=(random(8, 8, 1, 1) * 10).astype(np.int8),
        k=np.array([5]),
        n=np.array([1, 2], np.float32),
    )
    assert not any(node.name for node in model.graph.node)
    return model


def test_nodes_without_names_positions_and_constants(tmp_path: Path) -> None:
    compiled = mbv3c.compile(positions(), NPU, tmp_path / "bundle")
    assert compiled.verdict is not None and compiled.verdict.passed
    assert [each.dtype for each in compiled.bundle.manifest.outputs] == [
        "float32",
        "int64",
        "float32",
    ]


def test_a_dynamic_batch_is_named(tmp_path: Path) -> None:
    model = graph("g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu (x) }")
    with pytest.raises(Mbv3cError, match=r"\(N, 3, 8, 8\).*--input-shape 1,3,8,8"):
        mbv3c.compile(model, NPU, tmp_path / "bundle")


def test_an_output_that_is_the_input_is_named(tmp_path: Path) -> None:
    model = graph(
        "g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y, float[1, 3, 8, 8] x) { y = Relu (x) }"
    )
    with pytest.raises(Mbv3cError, match=r"'x' is the input itself.*leave it out of the export"):
        mbv3c.compile(model, NPU, tmp_path / "bundle")


def test_single_numbers_are_vectors_over_all_inputs() -> None:
    """By itself a single number has a cosine of 1 or -1, which says nothing."""
    wanted, ours = [3.0, -0.01, 2.0], [2.9, 0.01, 2.1]
    references = [[ReferenceOutput("y", np.array([y], np.float32), 0.0, None)] for y in wanted]
    near = cosines([[np.array([y], np.float32)] for y in ours], references)
    assert near == pytest.approx([0.9987] * 3, abs=1e-3)
    far = cosines([[np.array([-y], np.float32)] for y in ours], references)
    assert max(far) < 0
