"""Lines as they fit a terminal of 80 columns, by hand and in a real one."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mbv3c.commands.wrapping import wrapped

PROSE = "word " * 30 + "end"


@pytest.mark.parametrize("before", ["", "  ", "[  0.3 s] ", "[ 10.3 s, 1 s, 9 MiB] "])
def test_prose_ends_its_lines_between_words(before: str) -> None:
    lines = wrapped(before + PROSE, 80).split("\n")
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"{before}word word")
    indent = min(len(before), 11) if before.startswith("[") else len(before) + 2
    assert all(
        line.startswith((f"{' ' * indent}word", f"{' ' * indent}end")) for line in lines[1:]
    )
    assert " ".join(" ".join(lines).split()) == " ".join(f"{before}{PROSE}".split())


def test_the_last_column_of_a_table_goes_on_below_itself() -> None:
    first, *others = wrapped(f"ok       a name    12  {PROSE}", 80).split("\n")
    assert first.startswith("ok       a name    12  word") and len(first) <= 80
    assert others and all(
        line.startswith(f"{'':23}word") or line.endswith(" end") for line in others
    )
    narrow = f"{'a':<62}{PROSE}"
    assert wrapped(narrow, 80) == narrow


@pytest.mark.parametrize("line", ["short", "word" * 40, f"mbv3c {PROSE}"])
def test_words_and_commands_stay_whole(line: str) -> None:
    assert wrapped(line, 80) == line


def test_what_is_copied_stays_whole() -> None:
    command = "mbv3c verify a/bundle --device 192.168.1.20:9090 --inputs photos"
    for text in (
        f"{'word ' * 12}`{command}` behind it",
        f"a bundle without speed has none: {command}",
    ):
        lines = wrapped(text, 80).split("\n")
        assert len(lines) == 2 and command in lines[1]
    assert wrapped(PROSE, 39) == PROSE


def test_a_terminal_gets_lines_that_fit_and_a_pipe_whole_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mbv3c", "compile", "--target", "npu:ethos-u99"]
    piped = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert len(piped.stderr.splitlines()) == 1 and len(piped.stderr) > 80
    ours, its = pty.openpty()
    columns = os.environ | {"COLUMNS": "80"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(command, stderr=its, env=columns, cwd=tmp_path, check=False)
        os.close(its)
        said = terminal.read(4096).decode()
    assert done.returncode == 2
    lines = said.splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert " ".join(said.split()) == " ".join(piped.stderr.split())
