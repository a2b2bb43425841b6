"""`--dry-run` says what would be done, does nothing, and imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mbv3c.execution.times import Work, noting
from tests.command_line import document, mbv3c
from tests.commands.test_places import PROGRAM

LINES = {
    "compile model.onnx --target rpi5 --dry-run": "rpi5 = arm_cpu:cortex-a76, 4 cores",
    "compile model.onnx --target npu --calibration images --dry-run": "the 2 files of images",
    "compile --variant small --target host_cpu --no-verify --dry-run": "build variant small",
    "quantize model.onnx -o q.onnx --dry-run": "writes      q.onnx",
    "tune model.onnx --target rpi5 --minutes 3 --dry-run": "in fp32, at most 3 minutes",
    "verify bundle --dry-run": "run it as arm_cpu:cortex-a72 runs here, on seeded inputs",
    "verify bundle --images images --dry-run": "on the 2 files of images",
    "verify model.onnx --ladder --target host_cpu --dry-run": "stage by stage",
    "verify --check outputs.npz --dry-run": "judge the outputs in outputs.npz again",
}


def test_it_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "outputs.npz").write_bytes(b"PK")
    for name in ("bundle", "images/cat"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("images/a.jpg", "images/cat/b.jpg"):
        (tmp_path / name).touch()
    manifest = {"target": {"name": "arm_cpu:cortex-a72"}, "precision": "fp32"}
    (tmp_path / "bundle/manifest.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *LINES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == "exit code 0\n" * len(LINES)
    said = ran.stdout.split("nothing was done\n")
    for (line, words), text in zip(LINES.items(), said, strict=False):
        assert words in text, line
        assert "last time" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_as_json_it_has_the_time_of_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x08")
    arguments = ("compile", model, "--target", "imx93", "--dry-run", "--json")
    cache = str(tmp_path / "cache")
    first = document(mbv3c(*arguments, MBV3C_CACHE=cache))["dry_run"]
    assert first["last"] is None
    assert first["target"] == "arm_cpu:cortex-a55"
    assert first["boards"] == ["imx93 = arm_cpu:cortex-a55, 2 cores"]
    assert {"onnx", "apache-tvm", "emulator"} <= {tool["name"] for tool in first["tools"]}
    assert first["output"] == "model-arm_cpu-cortex-a55-fp32"
    monkeypatch.setenv("MBV3C_CACHE", cache)
    with noting(Work("compile", str(model), "arm_cpu:cortex-a55", "fp32")):
        pass
    again = document(mbv3c(*arguments))["dry_run"]["last"]
    assert (again["model"], again["seconds"] < 5) == (str(model), True)
