"""Every line of the pages about NPUs does what it says; the others are in tests/printed."""

from pathlib import Path

import pytest

from tests.printed.lines import printed
from tests.printed.pages import follow
from tests.printed.table import NPU_PAGES

PRINTED = printed()


@pytest.mark.parametrize("page", NPU_PAGES)
def test_a_page_works_as_printed(page: str, tmp_path: Path) -> None:
    follow(page, PRINTED[page], NPU_PAGES[page], tmp_path)
