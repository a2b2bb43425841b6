"""Names that a user may have meant."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

_MOST = 3
_LEAST_PART = 3  # letters and digits by which a name is found inside another
_ALIKE = 0.6
_LITTLE_ALIKE = 0.4  # where nothing is more alike, and the names are too many to be listed
_LISTED = 8  # names that an error lists
_SIGNS = re.compile(r"[^a-z0-9]+")


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
    parts = [proposed for text, proposed in known.items() if wanted in _parts(text)]
    long = [key for key in plain if len(min(key, wanted, key=len)) >= _LEAST_PART]
    inside = [key for key in long if wanted in key or key in wanted]
    inside.sort(key=lambda key: abs(len(key) - len(wanted)))
    scores = {key: SequenceMatcher(None, key, wanted).ratio() for key in plain}
    close = sorted((key for key in plain if scores[key] >= _ALIKE), key=lambda key: -scores[key])
    by_text = [plain[key] for key in [*close[:1], *inside, *close]]
    return list(dict.fromkeys([*parts, *by_text]))[:_MOST]


def among(
    name: str,
    known: Iterable[str],
    others: Mapping[str, str] | None = None,
    listing: str = "",
) -> str:
    """Return what the error about an unknown name says of known ones: the nearest, then all.

    Args:
        name: what was written.
        known: the names that there are.
        others: names of something else that may be meant, and what to propose for each.
        listing: the command that lists the names, where they may be too many for an error.

    Returns:
        Text that follows the name in the error; it begins with a semicolon.
    """
    names = list(known)
    meant = {each: each for each in names} | dict(others or {})
    many = bool(listing) and len(names) > _LISTED
    near = nearest(name, meant) or (_little_alike(name, meant) if many else [])
    said = [f"nearest: {', '.join(near)}"] if near and not set(names) <= set(near) else []
    said.append(f"all: `{listing}`" if many else f"known: {', '.join(names) or 'none'}")
    return "".join(f"; {each}" for each in said)


def _little_alike(name: str, known: Mapping[str, str]) -> list[str]:
    """Return names with a part that begins alike and is a little alike, as m7 is to m99."""
    wanted = _plain(name)
    if len(wanted) < _LEAST_PART:
        return []
    scores: dict[str, float] = {}
    for text, proposed in known.items():
        for part in _parts(text):
            alike = SequenceMatcher(None, part, wanted).ratio()
            if part[0] == wanted[0] and alike >= _LITTLE_ALIKE:
                scores[proposed] = max(alike, scores.get(proposed, 0.0))
    return sorted(scores, key=lambda each: -scores[each])[:_MOST]


def _parts(text: str) -> list[str]:
    return [part for part in _SIGNS.split(text.lower()) if part]


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
