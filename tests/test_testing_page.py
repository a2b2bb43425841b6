"""The table of docs/testing.md, which leaves tests out of CI, names tests that there are."""

import pytest

from tests.conftest import COLLECTED
from tests.long_tests import LongTest, long_tests

FILES = {row.test.partition("::")[0] for row in long_tests().values()}


@pytest.mark.parametrize("row", long_tests().values(), ids=lambda row: row.test)
def test_a_row_leaves_out_something_that_there_is(
    row: LongTest, pytestconfig: pytest.Config
) -> None:
    """It speaks of the files that this run has collected: of all, where all are run."""
    collected = pytestconfig.stash[COLLECTED]
    if row.test.partition("::")[0] not in {test.partition("::")[0] for test in collected}:
        return
    parameters = collected[row.test]
    kept = {
        pattern: [p for p in parameters if LongTest("", (pattern,)).keeps(p)]
        for pattern in row.kept
    }
    assert all(kept.values()), kept
    assert sum(map(len, kept.values())) < len(parameters)


def test_files_that_are_listed_are_there(pytestconfig: pytest.Config) -> None:
    assert [file for file in sorted(FILES) if not (pytestconfig.rootpath / file).is_file()] == []
