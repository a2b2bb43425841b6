"""Advice names what can be had: how mbv3c was installed decides."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mbv3c import installing
from mbv3c.installing import install_extra


class _Distribution:
    def __init__(self, noted: object) -> None:
        self._noted = noted

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._noted if isinstance(self._noted, str | None) else json.dumps(self._noted)


WHEEL = "file:///home/me/my%20wheels/mbv3c-0.2.0-py3-none-any.whl"
GIT = {"url": "https://example.org/mbv3c.git", "vcs_info": {"vcs": "git", "commit_id": "abc1"}}


@pytest.mark.parametrize(
    ("noted", "arguments"),
    [
        (None, "'mbv3c[npu]'"),
        ("damaged", "'mbv3c[npu]'"),
        ([], "'mbv3c[npu]'"),
        ({"url": "http://[damaged"}, "'mbv3c[npu]'"),
        ({"url": "file:///src/mbv3c", "dir_info": {"editable": True}}, "-e '/src/mbv3c[npu]'"),
        ({"url": "file:///src/mbv3c", "dir_info": {}}, "'/src/mbv3c[npu]'"),
        (
            {"url": WHEEL, "archive_info": {}},
            "'/home/me/my wheels/mbv3c-0.2.0-py3-none-any.whl[npu]'",
        ),
        (GIT, "'mbv3c[npu] @ git+https://example.org/mbv3c.git@abc1'"),
        (
            {"url": "https://example.org/m.whl", "archive_info": {}},
            "'mbv3c[npu] @ https://example.org/m.whl'",
        ),
    ],
)
def test_where_it_came_from(noted: Any, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: _Distribution(noted))
    assert install_extra("npu") == f"pip install {arguments}"
    assert install_extra("npu", "a>1") == f"pip install {arguments} 'a>1'"


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    folder = Path(installing.__file__).parents[1]
    assert install_extra("npu") == f"pip install -e '{folder}[npu]'"
    assert (folder / "pyproject.toml").is_file()
