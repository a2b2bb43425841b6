"""Names from models do nothing where they are shown."""

import ast

import pytest

from mbv3c.quoting import for_cell, for_comment, for_terminal

HOSTILE = [
    '"""',
    "'''",
    "*/ evil /*",
    "\x1b[2J",
    "../../etc",
    "two\nlines",
    "right\u202eto left",
    "back\\",
    "null\0",
    "\ud800",
    "\u2028",
    "x" * 1_000_000,
    "??/",
    "{braces}",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_a_comment_stays_one(name: str) -> None:
    comment = for_comment(name)
    assert comment.isascii()
    assert comment.isprintable()
    assert "*/" not in comment
    assert len(comment) < 300
    assert ast.unparse(ast.parse(f"# {comment}\nx = 1")) == "x = 1"


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_a_terminal_gets_only_what_can_be_seen(name: str) -> None:
    shown = for_terminal(name)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert len(shown) < 5_000


def test_lines_and_letters_of_all_languages_stay() -> None:
    text = "Größe → 3×3\n\tколонка 列"
    assert for_terminal(text) == text


@pytest.mark.parametrize("cell", ["=HYPERLINK()", "+1", "-1", "@SUM", "\tx", "\rx", "\n=1", "＝1"])
def test_a_cell_is_no_formula(cell: str) -> None:
    assert for_cell(cell) == f"'{cell}"
    assert for_cell(f"a{cell}") == f"a{cell}"
