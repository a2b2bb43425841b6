"""How this package was installed, so that advice on what to install can be followed.

pip notes where a package came from beside it, in direct_url.json (PEP 610), unless that was an
index. mbv3c is on none that it could name.
"""

import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_NAME = "mbv3c"


def install_extra(extra: str, *more: str) -> str:
    """Return the command that installs an extra of mbv3c, and further packages, where it is."""
    return " ".join(["pip install", *_source(extra), *map(shlex.quote, more)])


def _source(extra: str) -> list[str]:
    """Return pip's arguments for mbv3c with an extra."""
    try:
        text = metadata.distribution(_NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # a checkout that Python finds by its path
        return ["-e", _quoted(Path(__file__).parents[1], extra)]
    origin = _parsed(text)
    url, folder = str(origin.get("url", "")), origin.get("dir_info")
    try:
        parts = urlsplit(url)
    except ValueError:  # damaged, too
        url = ""
    if not url:
        return [shlex.quote(f"{_NAME}[{extra}]")]
    if parts.scheme == "file":
        editable = isinstance(folder, dict) and folder.get("editable")
        return [*(["-e"] if editable else []), _quoted(Path(unquote(parts.path)), extra)]
    kept = origin.get("vcs_info")
    if isinstance(kept, dict):
        url = f"{kept.get('vcs', 'git')}+{url}@{kept.get('commit_id', 'HEAD')}"
    return [shlex.quote(f"{_NAME}[{extra}] @ {url}")]


def _parsed(text: str | None) -> dict[str, Any]:
    """Return what pip noted; nothing where it is damaged, as another tool may have written it."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _quoted(path: Path, extra: str) -> str:
    return shlex.quote(f"{path}[{extra}]")
