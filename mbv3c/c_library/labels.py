"""The names of the classes, as a table in C."""

from collections.abc import Iterator, Sequence

_PLAIN = range(0x20, 0x7F)
_ESCAPED = b'"\\?'  # question marks could become trigraphs


def declared(prefix: str, labels: Sequence[str]) -> list[str]:
    """Return the lines of a header about the names of classes, in UTF-8; none without names."""
    if not labels:
        return []
    count = f"{prefix.upper()}_LABELS"
    return [
        "/* The name of every class, in UTF-8. */",
        f"#define {count} {len(labels)}",
        f"extern const char *const {prefix}_labels[{count}];",
        "",
    ]


def defined(prefix: str, labels: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a source with the table that `declared` declares."""
    if labels:
        yield ""
        yield f"const char *const {prefix}_labels[{prefix.upper()}_LABELS] = {{"
        yield from (f"  {_literal(label)}," for label in labels)
        yield "};"


def _literal(text: str) -> str:
    """Return a string of C17 that holds a text in UTF-8, and nothing that ends it."""
    characters = (
        chr(byte) if byte in _PLAIN and byte not in _ESCAPED else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(characters)}"'
