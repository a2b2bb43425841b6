"""The man page says what the help says, and roff can set it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import click
import pytest

from mbv3c.cli import commands
from scripts.write_man_page import PAGE, _text, page


def _all(group: click.Group, path: str = "mbv3c") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _all(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_it_is_that_of_these_commands() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "run `python scripts/write_man_page.py`"


def test_it_has_every_command_and_option() -> None:
    sections = re.split(r"^\.S[SH] (.+)$", page(), flags=re.MULTILINE)[1:]
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    for path, command in _all(commands):
        text = texts[path].replace("\\-", "-")
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert all(flag in text for flag in option.opts), (path, option.opts)
    assert {"NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES"} <= texts.keys()


def test_nothing_in_a_help_is_a_command_of_roff() -> None:
    assert _text(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert _text("'x") == "\\(aqx"
    assert _text("`~/a^`") == "\\(ga\\(ti/a\\(ha\\(ga"  # as they are typed, not as print has them
    assert _text('a\\b -c "d"') == "a\\eb \\-c \\(dqd\\(dq"
    lines = page().splitlines()
    macros = {line.split()[0] for line in lines if line.startswith((".", "'"))}
    assert macros == {'.\\"', ".TH", ".SH", ".SS", ".PP", ".TP", ".B"}
    assert all(line for line in lines)


@pytest.mark.skipif(
    shutil.which("man") is None or shutil.which("groff") is None, reason="no man or groff here"
)
def test_man_sets_it_without_a_warning() -> None:
    narrow = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    command = ["man", "--warnings", "-P", "cat", "-l", str(PAGE)]
    done = subprocess.run(command, env=narrow, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mbv3c device serve [OPTIONS]" in " ".join(done.stdout.split())
