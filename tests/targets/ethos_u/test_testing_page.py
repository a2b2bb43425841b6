"""docs/testing.md lists the long tests of the NPU, too, which another environment collects."""

from tests.test_testing_page import test_what_is_long_is_listed_and_what_is_listed_is_long

__all__ = ["test_what_is_long_is_listed_and_what_is_listed_is_long"]
