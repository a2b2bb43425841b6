"""What README and docs print for a shell: every line, with its page and its place there."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
]
# The programs that pages call. A line of a block that begins with another word is output or code.
PROGRAMS = (
    *("adb", "android_selfcheck.sh", "build_android_runtime.sh", "cmake", "git", "gradle", "g++"),
    *("make", "mbv3c", "mbv3c_run", "mkdir", "openssl", "pip", "pytest", "python", "python3"),
    *("scp", "sh", "sudo", ".", "cd"),
)
# A line of a block, or of a workflow in YAML; then variables that are set for it.
_LINE = re.compile(r"^(?:\s*(?:- run|entry): | {4,})(?:\$ )?((?:\w+=\S+ )*(\S+)(?: .*)?)$")


@dataclass(frozen=True)
class Line:
    """What a page has a reader type.

    Attributes:
        page: the page's path below the root of the repository.
        number: the first line of it there, from 1 on.
        text: as printed, in one line, without the comment behind it.
    """

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.number}: {self.text}"


def lines_of(page: str, text: str) -> list[Line]:
    """Return the lines of a page, in order; one that ends in \\ goes on in the next."""
    found, number, rows = [], 0, text.split("\n")
    while number < len(rows):
        first, row = number, rows[number]
        while row.endswith("\\") and number + 1 < len(rows):
            number += 1
            row = f"{row[:-1].rstrip()} {rows[number].strip()}"
        number += 1
        taken = _LINE.match(row)
        if taken and taken[2].rpartition("/")[2] in PROGRAMS:
            found.append(Line(page, first + 1, re.sub(r"\s+# .*", "", taken[1]).strip()))
    return found


def printed() -> dict[str, list[Line]]:
    """Return all lines, by page; pages without one are left out."""
    found = {}
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        if lines := lines_of(name, page.read_text()):
            found[name] = lines
    return found
