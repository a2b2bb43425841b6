"""The hooks that docs/ci.md prints, run by pre-commit in a repository of git."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import mbv3c

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"
NETWORK = ("--variant", "small", "--width", "0.35", "--resolution", "32", "--classes", "10")


def build(folder: Path, seed: int) -> None:
    done = mbv3c("build", *NETWORK, "--seed", seed, "-o", "model.onnx", "--force", cwd=folder)
    assert done.returncode == 0, done.stderr


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = os.environ | {"PATH": programs, "PRE_COMMIT_HOME": str(folder.parent / "pre-commit")}
    return subprocess.run(
        command, cwd=folder, env=known, text=True, capture_output=True, check=False
    )


def commit(folder: Path, message: str) -> subprocess.CompletedProcess[str]:
    run(folder, "git", "add", "-A")
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return run(folder, "git", *author, "commit", "-m", message)


@pytest.mark.long
def test_a_commit_with_another_model_needs_a_new_baseline(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (config,) = re.findall(r"```yaml\n(fail_fast:.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / ".pre-commit-config.yaml").write_text(config)
    (folder / ".gitignore").write_text("bundle/\n")
    build(folder, seed=1)
    baseline = ("--report", "baseline.json", "--latency")
    entry = re.findall(r"entry: (mbv3c compile .*)", config)[0].split()
    assert run(folder, *entry).returncode == 0
    assert run(folder, "mbv3c", "verify", "bundle", *baseline).returncode == 0
    assert run(folder, "git", "init", "-q").returncode == 0
    assert run(folder, "pre-commit", "install").returncode == 0

    first = commit(folder, "a model and its baseline")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stderr.count("Passed") == 2, first.stderr

    (folder / "notes.txt").write_text("what was tried")
    other = commit(folder, "notes")
    assert other.returncode == 0 and other.stderr.count("Skipped") == 2, other.stderr

    build(folder, seed=2)
    refused = commit(folder, "another model")
    assert refused.returncode == 1
    assert "write another with --report" in refused.stderr, refused.stderr
