"""Scripts that need no mbv3c: of a sound part they say so, and end with 0."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from mbv3c.errors import UsageError
from mbv3c.parity.ladder.parts import Parts
from mbv3c.parity.ladder.reproduce import SCRIPTS, Culprit, check_culprit, write_culprit
from mbv3c.parity.ladder.stages import ImportStage, RewriteStage, Stage, check_part
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from tests.onnx_text import random
from tests.parity.small_network import small_network

ALONE = """
import runpy, sys
sys.modules["mbv3c"] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def culprit_of(stage: Stage, folder: Path) -> Culprit:
    part = Parts(small_network()).part("x", "bneck1.project.bn.out")
    assert part is not None
    folder.mkdir()
    shown = check_part(stage, part, random(1, 3, 32, 32), folder)
    return Culprit(stage, shown, tuple(part.nodes), 1)


@pytest.mark.parametrize(
    "stage",
    [RewriteStage(FoldBatchNorm(), "fold_batchnorm"), ImportStage()],
    ids=lambda stage: stage.name,
)
def test_a_script_says_of_a_sound_part_that_it_is(stage: Stage, tmp_path: Path) -> None:
    culprit = culprit_of(stage, tmp_path / "made")
    assert not culprit.shown.failed
    write_culprit(culprit, tmp_path / "c", force=False)
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path / "c" / "reproduce.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[2]) <= culprit.shown.allowed
    assert json.loads((tmp_path / "c" / "culprit.json").read_text())["stage"] == stage.name
    onnx.checker.check_model(onnx.load(tmp_path / "c" / "before.onnx"))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_are_python_and_name_what_they_import(kind: str) -> None:
    script = SCRIPTS[kind]
    compile(script.head + script.body, kind, "exec")
    assert "mbv3c" not in script.head + script.body + script.end
    for module, package in {
        "onnxruntime": "onnxruntime",
        "tvm": "apache-tvm",
        "tosa_reference_model": "tosa-tools",
        "ethosu.vela": "ethos-u-vela",
    }.items():
        assert (module in script.head + script.body) == (package in script.needs)


def test_only_an_earlier_culprit_is_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    check_culprit(folder, force=False)
    folder.mkdir()
    (folder / "file").touch()
    for force, reason in ((False, "--force"), (True, "no culprit of an earlier run")):
        with pytest.raises(UsageError, match=reason):
            check_culprit(folder, force=force)
    (folder / "culprit.json").touch()
    check_culprit(folder, force=True)
