"""The table of docs/testing.md speaks of the NPU's tests, too, which are collected here."""

from tests.test_testing_page import test_a_row_leaves_out_something_that_there_is

__all__ = ["test_a_row_leaves_out_something_that_there_is"]
