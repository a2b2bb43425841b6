"""A job: what is to be done, named by a hash of all that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from mbv3c.errors import UsageError
from mbv3c.version import __version__

MISSING = "not installed"
_MBV3C = "mbv3c"
_LENGTH = 40  # hexadecimal digits of a name


@dataclass(frozen=True)
class Kind:
    """A kind of jobs.

    Attributes:
        function: where the function stands that does them, as `package.module:name`. It takes the
            options, the paths of the input files by name, an empty folder for the files of its
            result, and who is told what is being done; it returns the result as a document in
            JSON. Files whose names begin with a dot are no result: they stay if the process is
            killed, so that the next attempt can go on from them.
        packages: packages of Python whose versions decide the result.
        revision: counted up when the function computes something else than before.
    """

    function: str
    packages: tuple[str, ...] = ()
    revision: int = 1


# The functions stand above this package, and are imported in the process of the job only.
KINDS = {
    "train": Kind("mbv3c.search.kinds:train", ("torch", "numpy", "onnx", "onnxruntime"), 2),
    "evaluate": Kind("mbv3c.search.kinds:evaluate", ("numpy", "onnx", "onnxruntime", "pillow")),
    # These depend on the tools of their target, too, which the job names.
    "cost": Kind("mbv3c.search.kinds:cost"),
    "compile": Kind("mbv3c.search.kinds:compile_"),
    # And this on the emulator.
    "contest": Kind("mbv3c.targets.contests:contest", ("apache-tvm", "apache-tvm-ffi", "numpy")),
}


def kind_of(name: str) -> Kind:
    """Return a kind by its name; `package.module:name` is a kind by itself.

    Raises:
        UsageError: there is no such kind.
    """
    if name in KINDS:
        return KINDS[name]
    if ":" not in name:
        raise UsageError(f"unknown kind of jobs {name!r}; known: {', '.join(KINDS)}")
    return Kind(name)


@dataclass(frozen=True)
class Job:
    """Something to do, and all that decides its result.

    Attributes:
        kind: a key of `KINDS`.
        options: the function's options, as JSON has them.
        files: sha256 of each input file, by its name; the store holds them.
        packages: packages whose versions decide the result, too, such as those of a target.
        resources: what a machine of a cluster must have to do it, such as {"npu": 1}; this does
            not decide the result.
        title: what it is called where people read; this does not decide the result.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)
    title: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """The versions that decide the result: those of mbv3c and of the packages."""
        return versions_of({*kind_of(self.kind).packages, *self.packages})

    @property
    def name(self) -> str:
        """What its result is known by, 40 hexadecimal digits.

        Raises:
            UsageError: there is no such kind.
        """
        decides = {
            "kind": self.kind,
            "revision": kind_of(self.kind).revision,
            "options": dict(self.options),
            "files": dict(self.files),
            "versions": self.versions,
        }
        text = json.dumps(decides, sort_keys=True, allow_nan=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]

    def __str__(self) -> str:
        return f"{self.title or self.kind} ({self.name[:12]})"

    def to_json(self) -> dict[str, Any]:
        """Return what `job_from` reads."""
        return {
            "kind": self.kind,
            "options": dict(self.options),
            "files": dict(self.files),
            "packages": list(self.packages),
            "resources": dict(self.resources),
            "title": self.title,
        }


def job_from(document: Mapping[str, Any]) -> Job:
    """Return the job that `Job.to_json` wrote."""
    return Job(**{**document, "packages": tuple(document["packages"])})


def versions_of(packages: set[str]) -> dict[str, str]:
    """Return the versions of mbv3c and of packages of this Python, or that one is missing."""
    return {_MBV3C: __version__, **{name: _version(name) for name in sorted(packages)}}


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return MISSING
