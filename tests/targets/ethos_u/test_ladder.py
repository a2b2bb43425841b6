"""`mbv3c verify --ladder` of an NPU bundle: clean, and with one bit of its stream flipped."""

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import Culprit, write_culprit
from mbv3c.parity.ladder.stages import check_part
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import Registers, decode, read_program
from mbv3c.targets.ethos_u.ladder import SplitNetwork, TosaStage
from mbv3c.targets.ethos_u.lowering.partition import partition
from tests.command_line import mbv3c, python

RAW = "model_vela.npz"
ALONE = """
import runpy, sys
sys.modules["mbv3c"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_a_clean_bundle_is_green(bundle: Path, tmp_path: Path):
    done = mbv3c("verify", "--ladder", bundle, "--culprit", tmp_path / "c", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"]
    assert found["culprit"] is None
    stages = [one["stage"] for one in found["stages"]]
    assert stages[-3:] == ["quantized", "TOSA", "command stream"]
    assert found["stages"][-1]["from_before"] == 0


@pytest.mark.parametrize("kind", ["command", "scale"])
def test_one_flipped_bit_of_the_stream_is_named_by_its_layer(
    bundle: Path, quantized: onnx.ModelProto, tmp_path: Path, kind: str
):
    broken, folder = tmp_path / "broken", tmp_path / "culprit"
    shutil.copytree(bundle, broken)
    layer, word, scales = some_convolution(bundle, quantized)
    if kind == "command":
        payload = read_payload(bundle / RAW, "cmd_data")
        commands = len(payload) // 4 - len(read_program(bundle / RAW).words)
        flip(broken / RAW, "cmd_data", 4 * (commands + word) + 2)
    else:
        flip(broken / RAW, "weight_data", scales + 5)
    rehash(broken, RAW)
    done = mbv3c("verify", "--ladder", broken, "--culprit", folder, "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["culprit"]["stage"] == "command stream"
    assert layer in found["culprit"]["layers"]
    assert {name.rsplit(".", 1)[0] for name in found["culprit"]["layers"]} == {
        layer.rsplit(".", 1)[0]
    }
    assert [one["verdict"] for one in found["stages"]].count("BREAKS") == 1
    shown = python("-I", "-c", ALONE, folder / "reproduce.py")
    assert shown.returncode == 1, shown.stderr
    assert shown.stdout.startswith("1 of ")


def some_convolution(bundle: Path, quantized: onnx.ModelProto) -> tuple[str, int, int]:
    """Return a layer, the word of a command that only it reads, and where its scales lie."""
    program, channels = read_program(bundle / RAW), partition(quantized).regions[0].channels
    interpret(program, [np.load(bundle / "golden" / "input.npy")])
    layers = {place: channels[one] for one, place in program.channels.items() if one in channels}
    registers, found, depth = Registers(), [], 0
    for command in decode(program.words):
        if command.name.startswith("SET_"):
            registers.set(command)
            if command.name == "SET_OFM_ZERO_POINT":
                depth = command.word
        elif command.name == "OP_CONV":
            place = f"{command.name} at word {command.word}"
            if registers["SCALE_REGION"] == program.constants_region and depth:
                found.append((layers[place], depth, registers.address("SCALE_BASE")))
            depth = 0
        elif command.name.startswith("OP_") and "WAIT" not in command.name:
            depth = 0
    return found[len(found) // 2]


def read_payload(raw: Path, name: str) -> bytes:
    with np.load(raw) as file:
        return file[name].tobytes()


def flip(raw: Path, name: str, place: int) -> None:
    """Flip a bit of an array in an .npz file."""
    with zipfile.ZipFile(raw) as archive:
        files = {one: bytearray(archive.read(one)) for one in archive.namelist()}
    data = files[f"{name}.npy"]
    (length,) = struct.unpack_from("<H", data, 8)  # of the header, as npy 1.0 has it
    data[10 + length + place] ^= 1
    with zipfile.ZipFile(raw, "w") as archive:
        for one, content in files.items():
            archive.writestr(one, bytes(content))


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_script_of_tosa_says_of_a_sound_part_that_it_is(
    quantized: onnx.ModelProto, tmp_path: Path
):
    def lower(model: onnx.ModelProto) -> SplitNetwork:
        return SplitNetwork(partition(model).regions[0], None)

    parts = Parts(quantized)
    (_, first), (_, last) = parts.bottlenecks()[:2]
    part = parts.part(first, last)
    assert part is not None
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    shown = check_part(TosaStage(lower), part, x, tmp_path)
    assert not shown.failed
    write_culprit(
        Culprit(TosaStage(lower), shown, tuple(part.nodes), 1), tmp_path / "c", force=False
    )
    done = python("-I", "-c", ALONE, tmp_path / "c" / "reproduce.py")
    assert done.returncode == 0, done.stderr
    # The reference model prints before it.
    said = done.stdout.splitlines()[-1].split()
    assert float(said[2]) == pytest.approx(shown.max_error_of_range, rel=1e-3)
