"""What a browser would fetch from elsewhere is found; links that a reader follows are not."""

from pathlib import Path

import pytest

from scripts.check_site import fetches, main

ELSEWHERE = {
    "script.html": '<script src="https://cdn.example/a.js"></script>',
    "style.html": '<link rel="stylesheet" href="//cdn.example/a.css">',
    "font.html": "<style>@font-face{src:url(https://fonts.example/a.woff2)}</style>",
    "inline.html": '<script>fetch("https://api.example/count")</script>',
    "picture.html": '<img alt="" src="HTTP://pictures.example/a.png">',
    "attribute.html": "<p style=\"background:url('http://pictures.example/a.png')\">a</p>",
    "import.css": '@import "https://cdn.example/b.css";',
    "worker.js": "importScripts('//cdn.example/w.js')",
    "drawing.svg": '<svg><image href="https://pictures.example/a.png"/></svg>',
}
HERE = {
    "links.html": '<a href="https://example.org">there</a> <link rel="license" href="https://a.example">',
    "own.html": '<script src="_static/a.js"></script><p>see "https://example.org"</p>',
    "own.css": "/* from https://example.org */ a { background: url(a.png) }",
    "own.js": 'document.createElementNS("http://www.w3.org/2000/svg", "path")',
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_fetched_from_elsewhere_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(ELSEWHERE[name])
    assert len(fetches(tmp_path / name)) == 1
    assert main(str(tmp_path)) == 1


@pytest.mark.parametrize("name", HERE)
def test_all_else_is_let_through(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(HERE[name])
    assert fetches(tmp_path / name) == []
    assert main(str(tmp_path)) == 0


def test_a_site_that_was_not_built_is_no_site(tmp_path: Path) -> None:
    assert main(str(tmp_path)) == 1
