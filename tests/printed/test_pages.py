"""Every line that README and docs print for a shell works: in order, in a clean folder.

The pages that need the NPU's tools are followed in tests/targets/ethos_u/test_printed_pages.py.
"""

from pathlib import Path

import pytest

from tests.printed.lines import lines_of, printed
from tests.printed.pages import follow
from tests.printed.reader import WrongLineError
from tests.printed.table import INSTEAD, LEFT_OUT, NPU_PAGES, PAGES, Entry, left_out

PRINTED = printed()
LINES = [line for lines in PRINTED.values() for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_as_printed(page: str, tmp_path: Path) -> None:
    follow(page, PRINTED[page], PAGES[page], tmp_path)


def test_every_line_is_run_or_left_out_for_a_reason() -> None:
    followed = {*PAGES, *NPU_PAGES}
    assert [str(line) for line in LINES if line.page not in followed and not left_out(line)] == []
    for page in followed:
        assert [line for line in PRINTED[page] if not left_out(line)], f"nothing of {page} is run"


@pytest.mark.parametrize("entry", [*LEFT_OUT, *INSTEAD], ids=lambda entry: entry.printed)
def test_an_entry_fits_a_line(entry: Entry) -> None:
    fitting = [line for line in LINES if entry.fits(line)]
    assert fitting, f"{entry} fits no line: remove it"
    if entry.typed is not None:
        assert not all(map(left_out, fitting)), f"{entry} fits lines only that are left out"


WRONG = {
    "an option that is not there": ("mbv3c targets --bord", "No such option"),
    "a file that nothing has made": ("mbv3c inspect model.onnx", "model.onnx"),
    "a file that it does not write": ("mbv3c targets > of; true -o front.svg", "no front.svg"),
    "a traceback": ("python -c 'raise ValueError' || true", "ValueError"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_line_that_does_not_work_is_named(wrong: str, tmp_path: Path) -> None:
    text, said = WRONG[wrong]
    page = f"# A page\n\nFirst:\n\n    mbv3c --version\n    {text}   # so\n"
    lines = lines_of("docs/page.md", page)
    with pytest.raises(WrongLineError) as found:
        follow("docs/page.md", lines, (), tmp_path)
    assert str(found.value).startswith(f"docs/page.md, line 6: {text}\n")
    assert said in str(found.value)


def test_lines_of_a_page() -> None:
    page = """mbv3c in the text

    mbv3c tune x \\
        --minutes 20      # twenty
    [  0.3 s] mbv3c is at work
      - run: pip install it
1. In a list:

       $ A=1 B=2 scripts/sh that && openssl # once

    import mbv3c
"""
    found = [(line.number, line.text) for line in lines_of("page", page)]
    assert found == [
        (3, "mbv3c tune x --minutes 20"),
        (6, "pip install it"),
        (9, "A=1 B=2 scripts/sh that && openssl"),
    ]
