"""Text from models is data in an NPU bundle, too; and no number of a stream takes the memory."""

import io
import re
import tokenize
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.bundle import NPU_STREAM
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit, write_culprit
from mbv3c.parity.ladder.stages import check_part
from mbv3c.targets.ethos_u.interpreter.program import InterpreterError, read_program
from mbv3c.targets.ethos_u.ladder import SplitNetwork, TosaStage
from mbv3c.targets.ethos_u.lowering.partition import partition
from tests.command_line import mbv3c, python
from tests.commands.test_hostile_text import hostile, seen


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    onnx.save(hostile(), folder / "model.onnx")
    target = ("--target", "npu", "--no-verify", "-o", folder / "bundle")
    done = mbv3c("compile", folder / "model.onnx", *target)
    assert done.returncode == 0, done.stderr
    seen(done)
    return folder / "bundle"


def test_names_are_comments_in_c(compiled: Path) -> None:
    header = (compiled / "model.h").read_text("ascii")
    assert "evil" in header
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    assert "evil" not in code
    declared = r'extern (const uint32_t .*;|"C" \{)|\}|'
    line = re.compile(r"#(ifndef|define|include|ifdef|endif).*|" + declared)
    assert all(line.fullmatch(one) for one in code.splitlines())
    assert "evil" not in (compiled / "model.c").read_text("ascii")
    done = mbv3c("inspect", compiled)
    assert done.returncode == 0
    seen(done)


def test_names_are_comments_in_a_script(compiled: Path, tmp_path: Path) -> None:
    def lower(model: onnx.ModelProto) -> SplitNetwork:
        return SplitNetwork(partition(model).regions[0], None)

    quantized = onnx.load(compiled / "quantized.onnx")
    parts, x = Parts(quantized), np.zeros((1, 3, 8, 8), np.float32)
    part = parts.part(parts.input, quantized.graph.output[0].name)
    assert part is not None
    shown = check_part(TosaStage(lower), part, x, tmp_path)
    culprit = Culprit(TosaStage(lower), shown, tuple(part.nodes), 1)
    write_culprit(culprit, tmp_path / "c", force=False)
    text = (tmp_path / "c" / "reproduce.py").read_text("ascii")
    tokens = [*tokenize.generate_tokens(io.StringIO(text).readline)]
    named = {one.type for one in tokens if "evil" in one.string or "SystemExit(77" in one.string}
    assert named == {tokenize.COMMENT}
    done = python("-I", tmp_path / "c" / "reproduce.py")
    assert done.returncode in (0, 1), done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scratch_size", 1 << 62, "region 1 of 4,611,686,018,427,387,904 bytes, where 1,073,741"),
        ("scratch_size", -1, "region 1 of 0 bytes"),
        ("scratch_region", [1, 1], "is not a raw output of vela"),
        ("input_shape", [1, 8, 8, 3], "is not a raw output of vela"),
        ("input_elem_size", [3], "that no device has"),
        ("output_shape", [[1, 1 << 31, 1 << 31, 1 << 31]], "ends outside of its region"),
        ("output_offset", [-1], "that no device has"),
    ],
)
def test_numbers_that_ask_for_too_much(
    compiled: Path, tmp_path: Path, name: str, value: object, said: str
) -> None:
    with np.load(compiled / NPU_STREAM) as file:
        arrays = {one: file[one] for one in file.files if "quantization" not in one}
    np.savez(tmp_path / "x.npz", **{**arrays, name: np.array(value)})
    with pytest.raises(InterpreterError, match=said):
        read_program(tmp_path / "x.npz")
