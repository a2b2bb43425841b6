"""A measurement on images as one HTML page: no scripts, for light and dark screens."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbv3c import page as pages
from mbv3c.accuracy.report import lines
from mbv3c.page import Html, element, wide
from mbv3c.parity.gate.page import check_table, check_verdict
from mbv3c.parity.verdict import Check


def write_page(
    path: Path, title: str, document: Mapping[str, Any], checks: Sequence[Check]
) -> None:
    """Write a page whole or not at all, over what is there.

    Args:
        path: the file.
        title: what was measured.
        document: what was measured, in the documented form.
        checks: what it was held to.

    Raises:
        UsageError: its folder is not there.
        BundleError: the place cannot be written.
    """
    pages.write_page(path, pages.page(title, "accuracy on images", _sections(document, checks)))


def _sections(document: Mapping[str, Any], checks: Sequence[Check]) -> Iterator[Html]:
    if checks:
        yield check_verdict(checks)
        yield element("h2", "Checks")
        yield check_table(checks)
    yield element("h2", "Measured")
    yield wide(element("pre", "\n".join(lines(document))), "Measured")
