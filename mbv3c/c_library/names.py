"""Names in C for what a model calls as it likes."""

import re
from collections.abc import Iterable

from mbv3c.errors import UsageError

FOLDER = "c"  # in the bundle

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LONGEST = 60  # C guarantees 63 significant characters of an internal name
# Keywords of C23, of GNU and of C++20, and macros that the included headers may define.
_WORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept
const consteval constexpr constinit continue co_await co_return co_yield decltype default
delete do double dynamic_cast else enum explicit export extern false float for friend goto if
inline int linux long mutable namespace new noexcept not not_eq nullptr operator or or_eq
private protected public register reinterpret_cast requires restrict return short signed sizeof
static static_assert static_cast std struct switch template this thread_local throw true try
typedef typeid typename typeof typeof_unqual union unix unsigned using virtual void volatile
wchar_t while xor xor_eq
"""
# Names of the standard headers: macros, and functions that no namespace may be called.
_STANDARD = """
abort abs accept access acos alarm asin assert atan atexit atof atoi bind bsearch calloc ceil clock
clone close connect cos ctime div dup eof errno exit exp fabs fclose floor fopen fork fputs fread
free fseek fwrite getc getenv gets index isalpha kill labs link listen log main malloc memcmp
memcpy memmove memset mktime modf null open pause pipe pow printf putc puts qsort raise rand
read realloc recv remove rename round scanf select send setjmp signal sin size_t sleep socket
sqrt srand stderr stdin stdout strcmp strlen system tan time time_t tolower unlink wait write
int16_t int32_t int64_t int8_t intptr_t ptrdiff_t uint16_t uint32_t uint64_t uint8_t uintptr_t
"""
_RESERVED = frozenset((_WORDS + _STANDARD).split())


def check_prefix(prefix: str) -> str:
    """Return what all names of a library begin with, if C can have it.

    Raises:
        UsageError: it is no name in C or C++.
    """
    if (
        _IDENTIFIER.fullmatch(prefix)
        and len(prefix) <= _LONGEST
        and prefix.lower() not in _RESERVED
    ):
        return prefix
    raise UsageError(
        f"--prefix {prefix!r} is no name in C: choose up to {_LONGEST} letters, digits and "
        "underscores that begin with a letter and are no keyword or name of the standard headers"
    )


def header_of(prefix: str) -> str:
    """Return the path of a library's header in a bundle."""
    return f"{FOLDER}/include/{prefix}.h"


def archive_of(prefix: str) -> str:
    """Return the path of a library in a bundle."""
    return f"{FOLDER}/lib/lib{prefix}.a"


def sources_of(prefix: str) -> tuple[str, ...]:
    """Return the paths of a library's sources in a bundle: driver, kernels, weights, headers."""
    ends = (".c", "_kernels.c", "_weights.c", "_kernels.h", "_vectors.h")
    return tuple(f"{FOLDER}/src/{prefix}{end}" for end in ends)


def prefix_for(name: str) -> str:
    """Return a prefix made of the name of a model."""
    return identifier(name.lower()) or "network"


def identifier(name: str) -> str:
    """Return a name in C that reads like `name`; empty if nothing of `name` is left."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST].strip("_")
    if not words:
        return ""
    if words[0].isdigit():
        words = f"n{words}"[:_LONGEST]
    return f"{words}_" if words.lower() in _RESERVED else words


def distinct(names: Iterable[str], otherwise: str) -> list[str]:
    """Return different names in C for the names of tensors; `otherwise` is for a name of none."""
    taken: list[str] = []
    for at, name in enumerate(names):
        wanted = identifier(name).lower() or f"{otherwise}_{at}"
        found, number = wanted, 1
        while found in taken:
            number += 1
            found = f"{wanted}_{number}"
        taken.append(found)
    return taken
