"""docs/testing.md lists every test that is left out unless asked for."""

import re
from pathlib import Path

import pytest

from tests.conftest import COLLECTED

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"
ROW = re.compile(r"^\| `(tests/[\w/]+\.py::\w+)` \|", re.MULTILINE)


def test_what_is_long_is_listed_and_what_is_listed_is_long(pytestconfig: pytest.Config) -> None:
    """It speaks of the files that this run has collected: of all, where all are run."""
    files, long = pytestconfig.stash[COLLECTED]
    listed = ROW.findall(PAGE.read_text())
    assert len(listed) == len(set(listed))
    assert {one for one in listed if one.partition("::")[0] in files} == long


def test_files_that_are_listed_are_there() -> None:
    files = {one.partition("::")[0] for one in ROW.findall(PAGE.read_text())}
    assert [one for one in files if not (PAGE.parents[1] / one).is_file()] == []
