"""The C library beside a shared library, which `compile --artifact` asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mbv3c.bundle import Bundle
from mbv3c.c_library.application import FOLDER, MODEL_STEM
from mbv3c.c_library.c_source.check import CSource
from mbv3c.c_library.names import archive_of, check_prefix, header_of, sources_of
from mbv3c.c_library.run import CLibrary, library_in
from mbv3c.errors import BundleError, UsageError
from mbv3c.manifest import MANIFEST
from mbv3c.nearest import among
from mbv3c.targets.library.manifest import manifest_of

C, APP, C_SOURCE = ARTIFACTS = ("c", "app", "c-source")


@dataclass(frozen=True)
class ArtifactOptions:
    """What is asked for beside a shared library.

    Attributes:
        artifact: `c` for a C library, `c-source` for one that is C11, or `app` for sources that
            call the shared library.
        prefix: what names in C begin with; empty for the model's name.
    """

    artifact: str = C
    prefix: str = ""


def read_artifact(given: Mapping[str, Any]) -> ArtifactOptions | None:
    """Read `--artifact` and `--prefix`; None where nothing is asked for.

    Raises:
        UsageError: there is no such artifact, or no such name in C.
    """
    artifact, prefix = given.get("artifact"), given.get("prefix")
    if artifact is None:
        if prefix is not None:
            raise UsageError("--prefix is for names in C: give --artifact c, c-source or app, too")
        return None
    if artifact not in ARTIFACTS:
        raise UsageError(f"unknown artifact {artifact!r}{among(artifact, ARTIFACTS)}")
    return ArtifactOptions(artifact, "" if prefix is None else check_prefix(prefix))


def app_prefix(bundle: Bundle) -> str:
    """Return what names in the sources begin with that call the library; empty without sources.

    Raises:
        BundleError: they are not those that mbv3c writes.
    """
    names = [
        PurePosixPath(name) for name in bundle.files if PurePosixPath(name).parts[0] == FOLDER
    ]
    if not names:
        return ""
    own = [name.stem for name in names if name.suffix == ".h" and name.stem != MODEL_STEM]
    try:
        (prefix,) = own
        return check_prefix(prefix)
    except (ValueError, UsageError) as error:
        raise BundleError(
            f"{bundle.path / FOLDER} has not one header beside {MODEL_STEM}.h; compile it again"
        ) from error


def c_library_of(bundle: Bundle) -> CLibrary:
    """Return the C library of a bundle that has one.

    Raises:
        BundleError: its manifest names other files than are listed and hashed.
    """
    manifest = manifest_of(bundle)
    record = manifest.c_library
    assert record is not None
    named = header_of(record.prefix), archive_of(record.prefix)
    _check_named(bundle, (record.header, record.archive), named)
    return library_in(bundle.path, record.prefix, manifest)


def c_source_of(bundle: Bundle) -> CSource:
    """Return the library of C11 of a bundle that has one.

    Raises:
        BundleError: its manifest names other files than are listed and hashed.
    """
    manifest = manifest_of(bundle)
    record = manifest.c_source
    assert record is not None
    named = header_of(record.prefix), *sources_of(record.prefix)
    _check_named(bundle, (record.header, *record.sources), named)
    header, *sources = (bundle.path / name for name in named)
    return CSource(record.prefix, header, sources, manifest.inputs, manifest.outputs)


def _check_named(bundle: Bundle, given: tuple[str, ...], named: tuple[str, ...]) -> None:
    if given != named or not bundle.files.keys() >= {*named}:
        raise BundleError(
            f"{bundle.path / MANIFEST} is damaged: its C library is not {' and '.join(named)}, or "
            "they are not listed; compile it again"
        )
