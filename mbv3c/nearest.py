"""Names that a user may have meant."""

from collections.abc import Mapping
from difflib import get_close_matches

_MOST = 3
_LEAST_PART = 3  # letters and digits by which a name is found inside another
_ALIKE = 0.6


def nearest(name: str, known: Mapping[str, str]) -> list[str]:
    """Return the names that are nearest to one that is unknown, three at most, nearest first.

    Case, spaces and signs do not count.

    Args:
        name: what was written.
        known: what may be written, or what people call it, and the name to propose for it.
    """
    wanted = _plain(name)
    if not wanted:
        return []
    plain: dict[str, str] = {}
    for text, proposed in known.items():
        plain.setdefault(_plain(text), proposed)
    parts = [key for key in plain if len(min(key, wanted, key=len)) >= _LEAST_PART]
    inside = [key for key in parts if wanted in key or key in wanted]
    inside.sort(key=lambda key: abs(len(key) - len(wanted)))
    close = get_close_matches(wanted, plain, _MOST, _ALIKE)
    found = dict.fromkeys(plain[key] for key in [*close[:1], *inside, *close])
    return list(found)[:_MOST]


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
