"""Which tests CI leaves out: what the table of docs/testing.md says."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"
_ROW = re.compile(r"^\| `(tests/[\w/]+\.py::\w+)` \| (.*?) \| .+ \|$", re.MULTILINE)
_NONE = "none"


@dataclass(frozen=True)
class LongTest:
    """A row of the table.

    Attributes:
        test: file and function.
        kept: patterns of the parameters that CI runs; none of them where CI runs nothing.
    """

    test: str
    kept: tuple[str, ...]

    def keeps(self, parameters: str) -> bool:
        """Say whether CI runs the test with these parameters."""
        return any(fnmatchcase(parameters, pattern) for pattern in self.kept)


def long_tests() -> dict[str, LongTest]:
    """Return the rows of the table, by test."""
    rows = [
        LongTest(test, () if kept == _NONE else tuple(re.findall("`([^`]+)`", kept)))
        for test, kept in _ROW.findall(PAGE.read_text())
    ]
    assert all(row.kept or f"`{row.test}` | {_NONE} |" in PAGE.read_text() for row in rows)
    assert len(rows) == len({row.test for row in rows}), "a test is listed twice"
    return {row.test: row for row in rows}


def split(node: str) -> tuple[str, str]:
    """Return file and function of a node id, and its parameters."""
    test, _, parameters = node.partition("[")
    return test, parameters.removesuffix("]")
