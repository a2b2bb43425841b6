"""The command line as a whole: `--help`, and mistakes of every command."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mbv3c import cli
from mbv3c.installing import install_extra
from tests.command_line import mbv3c, python


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mbv3c', '--help']\n"
        "from mbv3c.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'onnx', 'tvm', 'numpy', 'onnxruntime'} & set(sys.modules), sys.modules.keys()"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("compile",),
            2,
            "Missing option '--target'. For example: `mbv3c compile --target rpi5`; all targets: ",
        ),
        (
            ("adapt", "--target", "rpi5", "--budget", "0.5x"),
            2,
            "rpi5 --budget 0.5x model.onnx --images images --output out.onnx`",
        ),
        (("compile", "--target", "arm_cpx"), 2, "unknown target 'arm_cpx'; nearest: arm_cpu"),
        (
            ("compile", "--target", "arm_cpu:x1"),
            2,
            "unknown device 'x1' of arm_cpu; nearest: arm_cpu:cortex-x1,",
        ),
        (("compile", "--target", "npu"), 1, install_extra("npu")),
        (
            ("compile", "--target", "npu:u55"),
            2,
            "unknown device 'u55' of npu; nearest: npu:ethos-u55-32,",
        ),
        (("compile", "--target", "host_cpu", "--sram", "9"), 2, "--sram is for --target npu"),
        (("compile", "none.onnx", "--target", "host_cpu"), 2, "no such file: none.onnx"),
        (("compile", "--target", "host_cpu", "--precision", "fp8"), 2, "unknown precision 'fp8'"),
        (
            ("compile", "--target", "arm_cpu:cortex-a53", "--precision", "fp16"),
            2,
            "arm_cpu:cortex-a53 does not compute in fp16; these do: arm_cpu:cortex-a76",
        ),
        (("build", "--resolution", "100"), 2, "resolution 100 is not supported"),
        (("build", "--head", "ssdlite", "--resolution", "224"), 2, "head ssdlite; choose 320"),
        (("build", "--variant", "medium"), 2, "unknown variant 'medium'; known: large, small"),
        (("build", "--classes", "0"), 2, "classes must be at least 1"),
        (("build", "-o", "nowhere/m.onnx"), 2, "the folder nowhere does not exist"),
        (("verify", "none"), 1, "none is no bundle"),
        (("compile", "--target", "host_cpu", "--opset", "13"), 2, "--opset belongs to a MODEL"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = mbv3c(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


FAULTY = """
import sys
from mbv3c import cli

def faulty(**given):
    raise {error}

cli.commands.commands["targets"].callback = faulty
cli.main()
"""


def test_a_fault_of_its_own_becomes_a_file_to_send(tmp_path: Path) -> None:
    script = FAULTY.format(error="KeyError('conv_7\\x1b[2J')")
    done = python("-c", script, "targets", "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 70
    first, second, *_ = done.stderr.splitlines()
    assert first == r"error: this is a fault of mbv3c, not of yours: KeyError: 'conv_7\x1b[2J'"
    (report,) = tmp_path.glob("mbv3c-fault-*.txt")
    assert str(report) in second
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "fault"
    text = report.read_text()
    assert "in faulty" in text
    assert "apache-tvm" in text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("MemoryError", "error: this takes more memory than there is"),
        (
            "OSError(28, 'No space left on device', '/tmp/x')",
            "/tmp/x: No space left on device; f",
        ),
    ],
)
def test_limits_of_the_system_are_no_faults(error: str, message: str, tmp_path: Path) -> None:
    done = python("-c", FAULTY.format(error=error), "targets", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# What an option's help begins with; behind a condition ("For npu, …") or "Only" and "Also".
VERBS = (
    *("add", "ask", "average", "begin", "build", "check", "choose", "compare", "compile"),
    *("compute", "convert", "count", "cut", "decay", "delete", "divide", "do", "download"),
    *("draw", "find", "fit", "fix", "give", "go", "halve", "judge", "keep", "learn", "leave"),
    *("let", "limit", "list", "listen", "look", "make", "measure", "multiply", "name"),
    *("optimise", "pad", "pool", "print", "put", "reach", "read", "register", "remove"),
    *("replace", "report", "round", "run", "save", "say", "scale", "search", "show", "sign"),
    *("smooth", "stay", "store", "subtract", "take", "test", "time", "train", "validate"),
    *("vary", "write"),
)


def test_every_option_says_what_it_does_in_the_imperative() -> None:
    found = [(f"{name} {option.opts[-1]}", option.help or "") for name, option in options()]
    assert len(found) > 300
    for name, said in found:
        words = re.sub(r"^(For [^,]+, |Only |Also )", "", said).split()
        assert words and words[0].lower() in VERBS, (name, said)


def options(
    command: click.Command = cli.commands, name: str = "mbv3c"
) -> Iterator[tuple[str, click.Option]]:
    """Yield the options of a command and of those below it that its help shows."""
    for each in command.params:
        if isinstance(each, click.Option) and not each.hidden:
            yield name, each
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            yield from options(inner, f"{name} {below}")
