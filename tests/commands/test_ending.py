"""The two lines with which `compile`, `verify` and `quantize` end."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mbv3c.commands import loudness
from mbv3c.commands.ending import end_compile, end_quantize, end_verify
from mbv3c.parity.verdict import Check
from mbv3c.quantization.loss import Loss

HELD = Check("parity", "logits, input 0", True, "max error 1.0e-06 of range")
DOCUMENT = {
    "ran_on": "this machine",
    "exact_program": True,
    "max_error_of_range": 1e-6,
    "tolerance": 1e-5,
}
BUNDLE = Path("my bundle")
LOSS = Loss(0.9991, 1.0, 20, True, ())


def _verified(checks: list[Check], **document: Any) -> list[str]:
    @click.command()
    def command() -> None:
        end_verify(BUNDLE, DOCUMENT | document, checks)

    return CliRunner().invoke(command, []).stdout.splitlines()


def test_a_verdict_that_is_passed() -> None:
    lines = _verified([HELD, HELD])
    assert lines == [
        "PASSED on this machine: all 2 checks hold, error 10% of what is allowed",
        "next: mbv3c report 'my bundle' -o report.html, one page to hand on",
    ]
    # What no tolerance judges, as an NPU's command stream, has no error to tell.
    assert _verified([HELD], tolerance=None)[0] == "PASSED on this machine: the one check holds"


def test_what_was_missed_first_is_named() -> None:
    missed = replace(HELD, passed=False, name="x" * 100)
    first, then = _verified([HELD, missed, missed])
    assert first.startswith("MISSED on this machine: 2 of 3 checks, first: xxx")
    assert first.endswith("…")
    assert then == "next: mbv3c verify 'my bundle' --ladder, for the stage at fault"


@pytest.mark.parametrize(
    ("check", "document", "word", "then"),
    [
        (replace(HELD, passed=False), {"unproven": True}, "NOT PROVEN", "`mbv3c device serve`"),
        (replace(HELD, passed=False, finding="NOT JUDGED: x"), {}, "NOT JUDGED", "--inputs FOL"),
        (replace(HELD, passed=False, suite="limits"), {}, "MISSED", "--metrics, for all errors"),
    ],
)
def test_what_to_do_follows_from_what_was_missed(
    check: Check, document: dict[str, Any], word: str, then: str
) -> None:
    first, second = _verified([HELD, check], **document)
    assert first.startswith(f"{word} on this machine: 1 of 2 checks")
    assert then in second


@pytest.mark.parametrize(
    ("document", "first", "then"),
    [
        (None, "NOT CHECKED my bundle", "mbv3c verify 'my bundle'"),
        (DOCUMENT, "PASSED on this machine: the one", "mbv3c run 'my bundle' --input FILE"),
        (
            DOCUMENT | {"ran_on": "emulated cortex-a76"},
            "PASSED on emulated cortex-a76: the one check holds, error 10% of what is allowed",
            "mbv3c verify 'my bundle' --device HOST:PORT, on the board itself",
        ),
        (DOCUMENT | {"exact_program": False}, "PASSED", "mbv3c inspect 'my bundle'"),
    ],
)
def test_compile(
    document: dict[str, Any] | None, first: str, then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end_compile(BUNDLE, document, [HELD], served=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(first)
    assert lines[1] == f"next: {then}"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "document",
    [
        {"ran_on": "interpreter of the command stream, and TOSA reference model"},
        DOCUMENT | {"ran_on": "emulated cortex-m55"},
    ],
)
def test_no_server_runs_what_npus_and_microcontrollers_run(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    end_compile(BUNDLE, document, [HELD], served=False)
    assert capsys.readouterr().out.endswith("next: mbv3c run 'my bundle' --input FILE\n")


@pytest.mark.parametrize(
    "name",
    [*("my bundle", "it's", "-o", "--trust", "a\nPASSED b", "\x1b[2J'\\x", "ü\u202ex"), "$(id)`"],
)
def test_what_to_do_next_is_one_line_that_a_shell_reads(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end_compile(Path(name), None, [], served=True)
    first, then = capsys.readouterr().out.splitlines()
    assert first.startswith("NOT CHECKED")
    words = then.removeprefix("next: mbv3c verify ")
    assert words.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {words}"], capture_output=True, check=True, timeout=60
    )
    given = os.fsdecode(done.stdout)
    assert not given.startswith("-")
    assert Path(given) == Path(name)


def test_names_from_a_model_begin_no_line() -> None:
    missed = replace(HELD, passed=False, name="y\nPASSED on this machine: all 9 checks hold")
    first, _ = _verified([missed])
    assert "first: y\\nPASSED" in first


@pytest.mark.parametrize(
    ("loss", "random", "first", "then"),
    [
        (None, False, "QUANTIZED q.onnx", "mbv3c compile q.onnx --target TARGET"),
        (LOSS, False, "QUANTIZED q.onnx: cosine 0.9991 to fp32", "mbv3c compile q.onnx --target"),
        (replace(LOSS, cosine=0.9), False, "FAR q.onnx: cosine 0.9000", "--method percentile"),
        (LOSS, True, "UNCALIBRATED q.onnx: ranges of random", "--calibration FOL"),
    ],
)
def test_quantize(
    loss: Loss | None, random: bool, first: str, then: str, capsys: pytest.CaptureFixture[str]
) -> None:
    end_quantize(Path("q.onnx"), loss, random=random)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(first)
    assert then in lines[1]
    assert max(map(len, lines)) <= 80


def test_colors_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        end_compile(BUNDLE, DOCUMENT | {"ran_on": "a\x1b[2Jb"}, [HELD], served=True)

    loudness.add_to(command)
    monkeypatch.delenv("NO_COLOR", raising=False)
    runner = CliRunner()
    colored = runner.invoke(command, [], color=True).stdout
    assert colored.startswith("\x1b[32m\x1b[1mPASSED\x1b[0m on a\\x1b[2Jb: the one check holds")
    assert "\x1b[1mnext:\x1b[0m mbv3c run" in colored
    assert "\x1b" not in runner.invoke(command, []).stdout
    assert "next:" not in runner.invoke(command, ["--quiet"]).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in runner.invoke(command, [], color=True).stdout
