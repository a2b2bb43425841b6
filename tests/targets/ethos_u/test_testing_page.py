"""The table of docs/testing.md, for the tests of this environment."""

from tests.test_testing_page import test_a_row_leaves_out_something_that_there_is as _rows

test_a_row_leaves_out_something_that_there_is = _rows
