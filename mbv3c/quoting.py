"""Text that comes from models, files and devices, quoted for where it goes.

A node may be called anything: a sequence that clears a terminal, the end of a comment, a formula
for a spreadsheet, a megabyte.
"""

from html import escape

_LONGEST_LINE = 4_000
_LONGEST_NAME = 200
# The last four are the wide forms, which spreadsheets take for the others.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def for_terminal(text: str) -> str:
    r"""Return lines in which nothing moves the cursor, hides or reorders text; long ones are cut.

    Characters of the categories Cc, Cf, Cs, Co, Zl and Zp (controls, marks for the direction of
    text, halves of surrogates, line separators) become escapes, such as \x1b.
    """
    return "\n".join(_cut(_escaped(line), _LONGEST_LINE) for line in text.split("\n"))


def for_comment(name: str) -> str:
    """Return a name for a comment of one line, in C or Python: ASCII, and no end of it."""
    line = _cut(ascii(name)[1:-1], _LONGEST_NAME)
    return line.replace("*/", "*\\/").replace("/*", "/\\*").rstrip("\\")


def for_page(text: str) -> str:
    """Return text for a page in HTML, where it is text, and hides and reorders nothing."""
    return escape(for_terminal(text))


def for_cell(text: str) -> str:
    """Return text for a cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in line
    )


def _cut(line: str, longest: int) -> str:
    if len(line) <= longest:
        return line
    half = longest // 2
    return f"{line[:half]} ... {len(line) - 2 * half:,} more characters ... {line[-half:]}"
