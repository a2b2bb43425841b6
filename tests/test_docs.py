"""Every command line in README and docs is one that mbv3c takes, and every link leads somewhere.

Nothing is run here; tests/printed runs the lines.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from mbv3c.cli import commands
from mbv3c.commands import places
from mbv3c.commands.report import NamedFile

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)#?([^)\s]*)\)")
LINE = re.compile(
    r"^(?: {4,}|\s*(?:- run|entry): )(?:\S+=\S+ )*(?:\S*/)?mbv3c (.+)$", re.MULTILINE
)
IN_TEXT = re.compile(r"`mbv3c ([^`]+)`")


def in_blocks() -> list[tuple[str, str]]:
    """Return the command lines that stand by themselves, and where they stand."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += [(page.name, line.partition(" # ")[0].strip()) for line in LINE.findall(text)]
    return found


def parsed(arguments: list[str]) -> click.Context:
    """Have the command line read its arguments as for running them."""
    name, command, rest = commands.resolve_command(click.Context(commands), arguments)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(click.Context(command), rest)
    assert command is not None
    return command.make_context(name, rest)


def unknown_options(line: str) -> set[str]:
    """Return the options of a line that its command does not have."""
    words = line.replace("\n", " ").split()
    command: click.Command = commands
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        taken = command.get_command(click.Context(command), words.pop(0))
        assert taken is not None, line
        command = taken
    options = [[*option.opts, *option.secondary_opts] for option in command.params]
    known = {"--help", "-h", "--version"}.union(*options)
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(words))) - known


@pytest.mark.parametrize(("page", "line"), in_blocks(), ids=lambda given: given[:70])
def test_a_line_is_taken(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their files are not here.
    monkeypatch.setattr(places.Place, "convert", lambda place, value, param, context: Path(value))
    monkeypatch.setattr(NamedFile, "convert", lambda named, value, param, context: value)
    for separator in (" | ", " && ", " > ", " < ", "; "):
        line = line.partition(separator)[0]
    if "[" in line:  # what may be left out
        assert unknown_options(line) == set()
        return
    try:
        parsed(shlex.split(line))
    except click.exceptions.Exit as help_or_version:
        assert help_or_version.exit_code == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_are_there(page: Path) -> None:
    for line in IN_TEXT.findall(page.read_text()):
        assert unknown_options(line) == set(), line


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in LINK.findall(page.read_text()):
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), name
        assert not anchor or anchor in headings(place), f"{name}#{anchor}"
