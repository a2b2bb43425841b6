"""Lines for people that fit their terminal; what goes into a file or a pipe stays one line."""

import re
import shutil
import textwrap
from typing import TextIO

_LEAST = 40  # columns below which wrapped text is no easier to read
_STEP = re.compile(r"\[ *[\d.]+ s[^\]]*\] ")  # the time before a step
_MOST_INDENT = 11  # of `[  0.0 s] `
_LEAST_COLUMN = 20  # columns in which the last column of a table is wrapped
_COLUMNS = re.compile(r"\S {2,}\S")
# What is copied: text between backquotes, and a command that ends its line.
_WHOLE = re.compile(r"`[^`]*`|(?:(?<=: )|(?<=→ )|^ *)(?:mbv3c|pip|python\S*) .*$")
_KEPT = "\ue000"  # stands for a space at which no line ends; escaped where it came from outside


def fitted(text: str, stream: TextIO) -> str:
    """Return lines as they fit the terminal that a stream is; for another stream as they are.

    Lines end between words; commands stay whole, and so does all but the last column of a table.
    """
    columns = columns_of(stream)
    if columns is None:
        return text
    return "\n".join(wrapped(line, columns) for line in text.split("\n"))


def columns_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; None where a stream is a pipe or a file."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def shortened(name: str, longest: int) -> str:
    """Return a name with its middle left out where it is longer than so many letters."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[len(name) - half :]}"


def wrapped(line: str, columns: int) -> str:
    """Return a line as lines of so many columns, where it is prose and longer than that."""
    before = _STEP.match(line)
    start = before.end() if before else len(line) - len(line.lstrip())
    if columns < _LEAST or len(line) <= columns:
        return line
    indent = min(start, _MOST_INDENT) if before else start + 2
    gaps = list(_COLUMNS.finditer(line, start))
    if gaps:  # a row of a table: its last column goes on below where it began
        start = indent = gaps[-1].end() - 1
        if start > columns - _LEAST_COLUMN:
            return line
    kept = _WHOLE.sub(lambda found: found[0].replace(" ", _KEPT), line[start:])
    lines = textwrap.wrap(
        kept,
        columns,
        initial_indent=line[:start],
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_KEPT, " ")
