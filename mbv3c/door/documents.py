"""JSON from outside: documents and text in JSON of a bounded size and depth."""

import json
from pathlib import Path
from typing import Any, NoReturn

from mbv3c.door.files import Refused, read_plain

# A manifest of a large network has under 2 MiB, the records of a long search under 20.
MOST_DOCUMENT = 64 << 20
MOST_RECORDS = 256 << 20


def parse_json(text: str | bytes) -> Any:
    """Return what text in JSON says.

    Raises:
        Refused: it is no JSON, is nested too deep, or holds NaN, infinity, or half a character.
    """
    try:
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _has_escapes(text):  # which may write half of a character
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError as error:
        raise Refused("it is nested too deep") from error
    except UnicodeEncodeError as error:
        raise Refused("it holds half a character") from error
    except ValueError as error:
        raise Refused(str(error)) from error
    return document


def read_json(path: Path, most: int = MOST_DOCUMENT) -> Any:
    """Read a document of JSON.

    Raises:
        OSError: the file cannot be read.
        Refused: as `read_plain` and `parse_json` say.
    """
    return parse_json(read_plain(path, most))


def _has_escapes(text: str | bytes) -> bool:
    return b"\\u" in text if isinstance(text, bytes) else "\\u" in text


def _no_number(name: str) -> NoReturn:
    raise Refused(f"it holds {name}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Refused(f"it holds {text[:20]}, which is beyond what a float holds")
    return value
