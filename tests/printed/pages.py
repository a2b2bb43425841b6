"""Follow one page from its first line to its last."""

from pathlib import Path

from tests.printed.given import GIVEN
from tests.printed.lines import Line
from tests.printed.reader import Reader
from tests.printed.table import left_out, typed


def prepare(reader: Reader, page: str, given: tuple[str, ...]) -> None:
    """Make what a page takes as given."""
    for name in given:
        maker = GIVEN.get(f"{page}:{name}") or GIVEN[name]
        if isinstance(maker, str):
            reader.follow(Line(page, 0, f"(given: {name})"), maker)
        else:
            maker(reader.work / name)


def follow(page: str, lines: list[Line], given: tuple[str, ...], folder: Path) -> None:
    """Run all lines of a page that are not left out, in order."""
    with Reader(folder) as reader:
        prepare(reader, page, given)
        for line in lines:
            if left_out(line) is None:
                reader.follow(line, typed(line))
