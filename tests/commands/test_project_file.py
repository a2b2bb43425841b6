"""mbv3c.toml: what it sets, what it must not set, and what wins."""

from pathlib import Path

import pytest

from mbv3c.cli import commands
from mbv3c.commands.project_file import FILE, read_project
from mbv3c.errors import UsageError
from tests.command_line import document, mbv3c

TEXT = """
[compile]
target = "rpi5"
no-verify = true
batch = 2
input-shapes = ["224x224", "320x320"]

[device.serve]
port = 9191

[profiles.npu.compile]
target = "imx93:npu"

[profiles.board.verify]
device = "192.168.1.20:9090"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / FILE).write_text(TEXT)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08")
    return tmp_path


def test_it_gives_options_and_the_command_line_wins(project: Path) -> None:
    dry = ("compile", "m.onnx", "--dry-run", "--json")
    assert document(mbv3c(*dry, cwd=project))["dry_run"]["target"] == "arm_cpu:cortex-a76"
    other = document(mbv3c(*dry, "--target", "imx93", cwd=project))["dry_run"]
    assert other["target"] == "arm_cpu:cortex-a55"
    npu = document(mbv3c("--profile", "npu", *dry, cwd=project))["dry_run"]
    assert npu["target"] == "npu:ethos-u65-256"
    assert document(mbv3c(*dry, cwd=project, MBV3C_PROFILE="npu"))["dry_run"] == npu
    assert mbv3c(*dry, cwd=project.parent).returncode == 2  # no target, and no file


def test_what_it_sets_is_said_before_work_begins(project: Path) -> None:
    done = mbv3c("--profile", "npu", "compile", "m.onnx", "--batch", "3", cwd=project)
    assert done.stderr.splitlines()[0].endswith(
        "s] mbv3c.toml, profile npu sets --target imx93:npu, --input-shapes 224x224 320x320, "
        "--no-verify"
    )
    refused = mbv3c("compile", "--target", "host_cpu", cwd=project)
    assert refused.returncode == 2
    assert "; mbv3c.toml sets --target rpi5, --no-verify, --batch 2" in refused.stderr


def test_config_says_what_holds_and_why(project: Path) -> None:
    found = document(mbv3c("--profile", "npu", "config", "--json", cwd=project))
    assert (found["file"], found["profiles"]) == ("mbv3c.toml", ["npu", "board"])
    target = {"command": "compile", "option": "--target", "value": "imx93:npu"}
    assert target | {"where": "[profiles.npu.compile]", "over": "rpi5"} in found["settings"]
    serve = {"command": "device serve", "option": "--port", "value": "9191"}
    assert serve | {"where": "[device.serve]", "over": None} in found["settings"]
    lines = mbv3c("config", cwd=project, NO_COLOR="1").stdout
    assert "mbv3c.toml; profiles: npu, board" in lines
    assert "NO_COLOR=1  from the environment" in lines
    assert max(map(len, lines.splitlines())) <= 80
    assert "no mbv3c.toml in this folder" in mbv3c("config", cwd=project.parent).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compile]\npercision = 'int8'", r"\[compile\] has no option 'percision'; nearest: prec"),
        ("[complie]\ntarget = 'rpi5'", r"\[complie\] is no command; nearest: compile"),
        ("[device.serv]\nport = 1", r"\[device.serv\] is no command; nearest: serve"),
        ("compile = 3", r"compile is no table; write \[compile\]"),
        ("profiles = 3", r"profiles is no table; write \[profiles.NAME.COMMAND\]"),
        ("[profiles]\nnpu = 3", r"profiles.npu is no table"),
        ("[profiles.a.compile]\nfoo = 1", r"\[profiles.a.compile\] has no option 'foo'"),
        ("[run]\ntrust = true", r"\[run\] must not set trust: it runs a bundle's code"),
        ("[compile]\nforce = true", r"must not set force: it writes over what is there"),
        ("[search]\ncluster = 'x:1'", r"must not set cluster: its scheduler may run code"),
        ("[verify]\njson = true", r"must not set json"),
        ("[compile]\nno-verify = 'yes'", r"no-verify is switched on by true, and off by false"),
        ("[compile]\ntarget = ['a']", r"target takes a text or a number"),
        ("[compile]\nbatch = true", r"batch takes a text or a number"),
        ("[compile", r"mbv3c.toml is no TOML: "),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_project(commands, tmp_path / FILE)


def test_values_are_checked_as_on_the_command_line(project: Path) -> None:
    (project / FILE).write_text('[compile]\ntarget = "rpi6"\n')
    done = mbv3c("compile", "m.onnx", cwd=project)
    assert done.returncode == 2
    assert "nearest: rpi5, rpi4, rpi3" in done.stderr
    assert "mbv3c.toml sets --target rpi6" in done.stderr


def test_files_and_profiles_that_are_not_there(project: Path) -> None:
    for arguments, message in (
        (("--profile", "nup", "config"), "no profile 'nup'; nearest: npu; known: npu, board"),
        (("--config", "none.toml", "config"), "no such file: none.toml"),
    ):
        done = mbv3c(*arguments, cwd=project)
        assert (done.returncode, message in done.stderr) == (2, True)
    away = mbv3c("--profile", "npu", "config", cwd=project.parent)
    assert "--profile npu is of mbv3c.toml, and there is none" in away.stderr
    other = mbv3c("--config", project / FILE, "config", cwd=project.parent)
    assert str(project / FILE) in other.stdout
