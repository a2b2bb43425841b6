"""What a bundle is made of, and how: for tools that look for known faults, and for audits.

sbom.cdx.json     its files, the packages that made them, and those that its program needs where it
                  runs: CycloneDX 1.6
provenance.json   what was asked for, of which model, with which versions: an in-toto statement
                  with SLSA's provenance, version 1

They hold no time and no name of a machine, so equal inputs give equal bytes. They are written by
hand and not by a library: CycloneDX's own brings six packages to every board, and a random number
and the time into every document, unless it is told not to. A test checks them by its schema.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from mbv3c.bundle import MODEL, Bundle
from mbv3c.door.documents import read_json
from mbv3c.door.files import Refused
from mbv3c.errors import BundleError
from mbv3c.manifest import MANIFEST, SIGNATURE, Manifest

SBOM, PROVENANCE = "sbom.cdx.json", "provenance.json"

# Beside the tools of every backend: what the rewrites and the arithmetic stand on.
_EVERYWHERE = ("numpy", "onnx-ir", "onnxscript")
_PROGRAM = "bundle"
_BUILDER = "urn:mbv3c"


@dataclass(frozen=True)
class Making:
    """What made the program of a bundle.

    Attributes:
        program: the files that the device runs.
        needed: the packages of Python whose libraries load the program.
        built_in: what the packages that made it brought along: versions by name.
    """

    program: Sequence[str]
    needed: Sequence[str] = ()
    built_in: Mapping[str, str] = field(default_factory=dict)


def write_provenance(folder: Path, manifest: Manifest, making: Making) -> None:
    """Write both documents into the folder of a bundle whose other files are whole.

    Args:
        folder: the bundle, without its manifest.
        manifest: what the manifest will say.
        making: what made the program.
    """
    files = _hashed(folder)
    _write(folder / SBOM, _sbom(files, manifest, making))
    _write(folder / PROVENANCE, _statement(_hashed(folder, files), manifest, making))


def check_provenance(bundle: Bundle, making: Making) -> None:
    """Make sure that both documents say what the bundle and its manifest say.

    Versions of packages that only they name are taken as they are.

    Raises:
        BundleError: a document says something else.
    """
    manifest, files = bundle.manifest, bundle.files
    ordered = {
        name: files[name] for name in sorted(files, key=PurePosixPath) if name != PROVENANCE
    }
    others = {name: digest for name, digest in ordered.items() if name != SBOM}
    for name in {SBOM, PROVENANCE} & files.keys():
        try:
            told = read_json(bundle.path / name)
            if name == SBOM:
                built_in, versions = _versions_in_sbom(told)
                wanted = _sbom(others, manifest, replace(making, built_in=built_in), versions)
            else:
                built_in, versions = _versions_in_statement(told)
                wanted = _statement(
                    ordered, manifest, replace(making, built_in=built_in), versions
                )
            same = told == json.loads(json.dumps(wanted))
        except (OSError, Refused, LookupError, TypeError, AttributeError, ValueError):
            same = False
        if not same:
            raise BundleError(
                f"{bundle.path / name} does not say what is in the bundle, or how it was made; "
                "compile it again"
            )


def _versions_in_sbom(told: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of what tools brought along, and of packages."""
    listed = [one for one in told["components"] if one["type"] == "library"]
    built_in, packages = (
        {one["name"]: one["version"] for one in listed if ("purl" in one) == known}
        for known in (False, True)
    )
    return built_in, packages


def _versions_in_statement(told: Any) -> tuple[dict[str, str], dict[str, str]]:
    predicate = told["predicate"]
    built_in = dict(predicate["runDetails"]["builder"]["version"])
    del built_in["mbv3c"]
    _, *packages = predicate["buildDefinition"]["resolvedDependencies"]
    return built_in, {one["name"]: one["uri"].rsplit("@", 1)[1] for one in packages}


def _hashed(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the sha256 of every file, by its path in the folder, but those not known yet."""
    known, left_out = known or {}, (MANIFEST, SIGNATURE, PROVENANCE)
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in left_out:
            found[name] = known[name] if name in known else _sha256(path)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def _versions(manifest: Manifest, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the versions of the packages that made a bundle, by their names on PyPI.

    `known` are versions that a bundle tells; None for those that are here.
    """
    more = {name: known[name] if known else metadata.version(name) for name in _EVERYWHERE}
    return dict(sorted({**more, **manifest.tools}.items()))


def _purl(name: str, version: str) -> str:
    """Return the package URL (purl-spec) of a package on PyPI."""
    return f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}"


def _sbom(
    files: Mapping[str, str],
    manifest: Manifest,
    making: Making,
    known: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    versions = _versions(manifest, known)
    needed = [_purl(name, versions[name]) for name in making.needed]
    program = [f"file:{name}" for name in making.program]
    dependencies = [
        {"ref": _PROGRAM, "dependsOn": sorted(f"file:{name}" for name in files)},
        *({"ref": file, "dependsOn": sorted(needed)} for file in program if needed),
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {
                "components": [{"type": "application", "name": "mbv3c", "version": manifest.mbv3c}]
            },
            "component": {
                "type": "application",
                "bom-ref": _PROGRAM,
                "name": manifest.model.name or "model",
                "description": f"compiled for {manifest.target.name}, {manifest.precision}",
            },
        },
        "components": [*_files(files), *_packages(versions, making)],
        "dependencies": dependencies,
    }


def _files(files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, digest in files.items():
        yield {
            "type": "machine-learning-model" if name.endswith(".onnx") else "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }


def _packages(versions: Mapping[str, str], making: Making) -> Iterator[dict[str, Any]]:
    """Yield the packages: those that load the program, and those that only made it (excluded)."""
    for name, version in versions.items():
        purl = _purl(name, version)
        scope = "required" if name in making.needed else "excluded"
        parts = {"type": "library", "bom-ref": purl, "name": name, "version": version}
        yield {**parts, "scope": scope, "purl": purl}
    for name, version in making.built_in.items():
        yield {
            "type": "library",
            "bom-ref": f"{name}@{version}",
            "name": name,
            "version": version,
            "scope": "excluded",
        }


def _statement(
    files: Mapping[str, str],
    manifest: Manifest,
    making: Making,
    known: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    versions = _versions(manifest, known)
    packages = [{"uri": _purl(name, version), "name": name} for name, version in versions.items()]
    model = {"name": MODEL, "digest": {"sha256": files[MODEL]}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": files[name]}} for name in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{_BUILDER}:compile:1",
                "externalParameters": manifest.asked,
                "resolvedDependencies": [model, *packages],
            },
            "runDetails": {
                "builder": {
                    "id": _BUILDER,
                    "version": {"mbv3c": manifest.mbv3c, **making.built_in},
                }
            },
        },
    }
