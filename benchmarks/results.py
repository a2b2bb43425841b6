"""RESULTS.md: one section for each kind of measurement, replaced when it is measured again."""

from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def replace_section(title: str, body: str, path: Path = RESULTS) -> None:
    """Put a section `## title` in the place of the one with this title, or at the end."""
    head, *sections = path.read_text().split("\n## ")
    new = f"{title}\n\n{body.strip()}\n"
    titles = [section.partition("\n")[0] for section in sections]
    if title in titles:
        sections[titles.index(title)] = new
    else:
        sections.append(new)
    path.write_text("\n## ".join([head.rstrip() + "\n", *(s.rstrip() + "\n" for s in sections)]))
