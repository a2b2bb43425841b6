"""`mbv3c optimize --prove` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session
from tests.command_line import Done, mbv3c, python
from tests.onnx_text import random

STEM = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y)
<float three = {3.0}, float zero = {0.0}, float six = {6.0}>
{
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    b = BatchNormalization(c, scale, shift, mean, variance)
    a = Add(b, three)
    p = Clip(a, zero, six)
    q = Mul(b, p)
    y = Div(q, six)
}"""
NAMES = ("stem.conv", "stem.bn", "stem.act.add", "stem.act.clip", "stem.act.mul", "stem.act.div")
PLANTED = Path(__file__).parents[1] / "parity" / "planted_faults.py"


def mbv3c_planted(*arguments: object) -> Done:
    """Run a command that has a wrong hard-swish in the place of ours."""
    return python(PLANTED, "hard_swish_of_29", *arguments)


@pytest.fixture(scope="module")
def stem_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a convolution with its normalization and activation, as frameworks export them."""
    model = onnx.parser.parse_model(STEM)
    for node, name in zip(model.graph.node, NAMES, strict=True):
        node.name = name
    stored = {"w": random(8, 3, 3, 3), "scale": random(8), "shift": random(8), "mean": random(8)}
    stored["variance"] = np.abs(random(8)) + 1
    for name, values in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = tmp_path_factory.mktemp("stem") / "stem.onnx"
    onnx.save(model, path)
    return path


def test_healthy(blocks_file: Path, tmp_path: Path) -> None:
    done = mbv3c("optimize", blocks_file, "-o", tmp_path / "o.onnx", "--prove")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[6] for row in rows if row[1] in ("10", "7")] == ["10/10", "7/7"]
    assert "21 of 21 proofs passed, each rewrite by itself against onnxruntime" in done.stdout
    plain = mbv3c("optimize", blocks_file, "-o", tmp_path / "plain.onnx")
    assert "prove" not in plain.stdout
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    again = mbv3c("optimize", tmp_path / "o.onnx", "-o", tmp_path / "o2.onnx", "--prove")
    assert again.returncode == 0
    assert "nothing to prove" in again.stdout
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "o2.onnx").read_bytes()


def test_healthy_as_json(stem_file: Path, tmp_path: Path) -> None:
    done = mbv3c("optimize", stem_file, "-o", tmp_path / "o.onnx", "--prove", "--json")
    found = json.loads(done.stdout)
    assert found["proof_failed"] == []
    proofs = {one["name"]: one["proofs"] for one in found["passes"]}
    assert len(proofs["fold_batchnorm"]) == len(proofs["fuse_hardswish"]) == 1
    assert set(proofs["fold_batchnorm"][0]) == {
        *("node", "passed", "max_error_of_range", "allowed", "reason")
    }
    assert all(proof["passed"] for one in proofs.values() for proof in one)
    done = mbv3c("optimize", stem_file, "-o", tmp_path / "p.onnx", "--json")
    assert json.loads(done.stdout)["proof_failed"] is None


def test_a_rewrite_that_fails_is_left_out_and_the_file_is_sound(
    blocks_file: Path, tmp_path: Path
) -> None:
    done = mbv3c_planted("optimize", blocks_file, "-o", tmp_path / "o.onnx", "--prove")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert any(
        line.startswith("fuse_hardswish refused stem.act.div: failed its proof: ")
        for line in lines
    )
    assert lines[-1].startswith(
        "PROOF FAILED for 7 rewrites, first fuse_hardswish at stem.act; none of them"
    )
    given, written = onnx.load(blocks_file), onnx.load(tmp_path / "o.onnx")
    assert "HardSwish" not in {node.op_type for node in written.graph.node}
    assert len(written.graph.node) < len(given.graph.node)
    for x in parity_inputs((1, 3, 32, 32)):
        wanted = run(session(given), x)[0]
        assert error_of_range(run(session(written), x)[0], wanted) <= 1e-5


def test_a_rewrite_that_fails_as_json(blocks_file: Path, tmp_path: Path) -> None:
    done = mbv3c_planted("optimize", blocks_file, "-o", tmp_path / "o.onnx", "--prove", "--json")
    assert done.returncode == 3
    failed = json.loads(done.stdout)["proof_failed"]
    assert len(failed) == 7
    assert failed[0]["pass"] == "fuse_hardswish"
    assert failed[0]["node"] == "stem.act"
    assert "of the output's range off on inputs" in failed[0]["reason"]


def test_without_prove_the_result_as_a_whole_is_judged(stem_file: Path, tmp_path: Path) -> None:
    """What a proof is for: without it the pass is named, and nothing is left to use."""
    done = mbv3c_planted("optimize", stem_file, "-o", tmp_path / "o.onnx", "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["message"].startswith("the pass fuse_hardswish (stem.act")
    assert error["parity"]["max_error_of_range"] > 1e-3
    assert not (tmp_path / "o.onnx").exists()


def test_an_output_that_is_not_finite_is_no_traceback(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4] x) => (float[1, 4] y) {
            n = Sub(x, x)
            [id] i = Identity(n)
            y = Div(i, i)
        }"""
    )
    onnx.save(model, tmp_path / "nan.onnx")
    done = mbv3c("optimize", tmp_path / "nan.onnx", "-o", tmp_path / "o.onnx", "--json")
    assert done.returncode == 0
    assert {one["max_error_of_range"] for one in json.loads(done.stdout)["passes"]} == {0, None}
    done = mbv3c("optimize", tmp_path / "nan.onnx", "-o", tmp_path / "p.onnx", "--prove")
    assert done.returncode == 3
    assert "onnxruntime gives no finite result to compare with" in done.stdout
