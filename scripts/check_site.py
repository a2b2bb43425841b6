"""Hold a built site to this machine: `python check_site.py FOLDER`.

It names what a browser would fetch from elsewhere, and then ends with exit code 1.

Links that a reader may follow lead anywhere.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
# What a browser fetches by itself. Of <link> it depends on what the link is for.
FETCHED = {"src", "srcset", "poster", "data", "action", "background", "xlink:href"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch"}
# In scripts and styles: quoted addresses, url(…) and @import. Namespaces are names, not addresses.
IN_TEXT = re.compile(
    r"""(?:["'`]|url\(\s*["']?|@import\s+["']?)((?:https?:)?//[^\s"'`)]+)""", re.IGNORECASE
)
NAMESPACE = "http://www.w3.org/"


class Fetches(HTMLParser):
    """Collects what a page has a browser fetch from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes of an element, and at the style that it has."""
        given = {name: value or "" for name, value in attrs}
        names = FETCHED | ({"href"} if tag in ("image", "use") else set())
        if tag == "link" and FETCHED_LINKS & set(given.get("rel", "").lower().split()):
            names = names | {"href"}
        self.found += [
            value for name, value in given.items() if name in names and ELSEWHERE.match(value)
        ]
        self.found += in_text(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Look at what stands between tags, of which scripts and styles count."""
        if self.cdata_elem:
            self.found += in_text(data)


def in_text(text: str) -> list[str]:
    """Return the addresses that a script or a style has."""
    return [one for one in IN_TEXT.findall(text) if not one.startswith(NAMESPACE)]


def fetches(path: Path) -> list[str]:
    """Return what a file of a site has a browser fetch from elsewhere."""
    text = path.read_text(errors="replace")
    if path.suffix in (".html", ".svg"):
        page = Fetches()
        page.feed(text)
        return page.found
    return in_text(text) if path.suffix in (".css", ".js") else []


def main(folder: str) -> int:
    """Print what is fetched from elsewhere, and return the exit code."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    found = [f"{path}: {address}" for path in files for address in fetches(path)]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
