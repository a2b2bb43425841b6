"""What is asked of a C library, and what a manifest says of one."""

from dataclasses import dataclass

from mbv3c.bundle import Golden
from mbv3c.manifest import Manifest


@dataclass(frozen=True)
class CLibraryRequest:
    """What a C library is made of.

    Attributes:
        prefix: what every name begins with.
        digest: the sha256 of the model as given.
        manifest: what is known of the bundle.
        golden: an input and what the network makes of it.
        labels: the names of the classes; empty without.
    """

    prefix: str
    digest: str
    manifest: Manifest
    golden: Golden
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class CLibraryRecord:
    """What a manifest says of a C library.

    Attributes:
        prefix: what every name begins with.
        header, archive: the files, by their path in the bundle.
        code_bytes, constant_bytes: the instructions, and the weights with all tables.
        arena_bytes, arena_lower_bound, arena_alignment: the memory that the caller gives; no
            arena can be smaller than the bound.
        shared_loops: the number of loops that the application's threads may share.
        needs: functions that must be linked beside memcpy, memmove and memset.
    """

    prefix: str
    header: str
    archive: str
    code_bytes: int
    constant_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    arena_alignment: int
    shared_loops: int
    needs: tuple[str, ...]


@dataclass(frozen=True)
class CSourceRecord:
    """What a manifest says of a C library that is C11.

    Attributes:
        prefix: what every name begins with.
        header, sources: the files, by their path in the bundle; what is compiled ends in .c.
        source_bytes: the text of all sources, but for that of the weights.
        constant_bytes: the weights in memory.
        arena_bytes, arena_lower_bound, arena_alignment: as of a C library.
        shared_loops: the number of loops that the application's threads may share.
        needs: functions of math.h that are called.
    """

    prefix: str
    header: str
    sources: tuple[str, ...]
    source_bytes: int
    constant_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    arena_alignment: int
    shared_loops: int
    needs: tuple[str, ...]
