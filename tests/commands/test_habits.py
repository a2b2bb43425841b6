"""Completion, versions, caches, and how much is printed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mbv3c.cli import commands
from mbv3c.commands import loudness
from mbv3c.commands.clean import KINDS
from mbv3c.commands.options import Progress, echo_event
from tests.command_line import document, mbv3c


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (("comp",), {"compile", "completion"}),
        (("compile", "--target", "rpi"), {"rpi5", "rpi4", "rpi3", "rpi-zero2", "rpi2"}),
        (("tune", "--target", "mcu:cortex-m3"), {"mcu:cortex-m33"}),
        (("compile", "--precision", "f"), {"fp32", "fp16"}),
        (("device", "pr"), {"probe"}),
    ],
)
def test_bash_completes(words: tuple[str, ...], completed: set[str], tmp_path: Path) -> None:
    program = tmp_path / "mbv3c"
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from mbv3c.supervisor import main\n"
        'import sys\nsys.argv[0] = "mbv3c"\nmain()\' "$@"\n'
    )
    program.chmod(0o755)
    script = mbv3c("completion", "bash").stdout
    asked = (
        f"{script}\nCOMP_WORDS=(mbv3c {' '.join(words)})\nCOMP_CWORD={len(words)}\n"
        '_mbv3c_completion mbv3c\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", asked],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == completed, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str) -> None:
    assert f"_MBV3C_COMPLETE={shell}_complete" in mbv3c("completion", shell).stdout


def test_the_version_is_told_with_those_of_all_tools() -> None:
    plain = mbv3c("--version").stdout
    found = document(mbv3c("--version", "--json"))
    assert plain == f"mbv3c, version {found['mbv3c']}\n"
    assert found == document(mbv3c("--json", "--version"))
    assert found["packages"]["onnx"]
    assert "ethos-u-vela" in found["packages"]
    assert {"emulator", "tvm"} <= {tool["name"] for tool in found["tools"]}
    assert "stands behind a command" in mbv3c("--json", "targets").stderr


def test_clean_removes_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    for name in ("jobs/a/b", "costs/c", "llvm-kit-1/bin/d", "mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1234")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "job-images").symlink_to(outside)
    there = {"MBV3C_CACHE": str(tmp_path)}
    rows = document(mbv3c("clean", "--json", **there))["kinds"]
    assert {row["kind"]: row["bytes"] > 3 for row in rows} == {
        name: name in ("jobs", "costs", "tools") for name in KINDS
    }
    assert "nothing was removed" in mbv3c("clean", **there).stdout
    assert len(list(tmp_path.iterdir())) == 5
    assert "removed" in mbv3c("clean", "jobs", **there).stdout
    assert {each.name for each in tmp_path.iterdir()} == {"costs", "llvm-kit-1", "mine"}
    assert (outside / "kept").exists()
    assert mbv3c("clean", "jobs", "--all", **there).returncode == 2
    assert mbv3c("clean", "mine", **there).returncode == 2
    mbv3c("clean", "--all", **there)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_doctor_clears_compiled_kernels_alone(tmp_path: Path) -> None:
    for name in ("objects/a", "opencl-programs/b", "jobs/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1234")
    there = {"MBV3C_CACHE": str(tmp_path)}
    assert mbv3c("doctor", "--clear-cache", "--fetch", **there).returncode == 2
    assert document(mbv3c("doctor", "--clear-cache", "--json", **there)) == {"removed_bytes": 8}
    assert [each.name for each in tmp_path.iterdir()] == ["jobs"]
    assert mbv3c("doctor", "--clear-cache", **there).stdout.startswith("removed 0.0 MiB")


def test_quiet_and_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def say() -> None:
        progress = Progress()
        progress("building")
        progress("warning: it is late")
        echo_event({"event": "step"})

    loudness.add_to(say)
    usual, quiet, loud = (CliRunner().invoke(say, list(given)) for given in ("", ["-q"], ["-v"]))
    assert len(usual.stderr.splitlines()) == 3
    assert quiet.stderr.endswith("s] warning: it is late\n")
    assert len(quiet.stderr.splitlines()) == 1
    assert " s of processor, " in loud.stderr.splitlines()[0]
    assert loud.stderr.splitlines()[0].endswith("MiB] building")
    monkeypatch.setenv("NO_COLOR", "")
    CliRunner().invoke(say, ["--no-color"])
    assert os.environ["NO_COLOR"] == "1"


def test_every_command_can_be_quiet() -> None:
    def leaves(command: click.Command) -> Iterator[click.Command]:
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield from leaves(inner)
        else:
            yield command

    for command in leaves(commands):
        spelled = [name for option in command.params for name in option.opts]
        assert {"--quiet", "--verbose", "--no-color"} <= set(spelled)
        assert len(set(spelled)) == len(spelled), command.name
