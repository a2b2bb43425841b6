"""The bundle: the folder that `compile` writes and everything else reads.

manifest.json          what it is, for which target, made how, with which verdict; the sha256
                       of every other file
model.so               the library; in its place an NPU has model.tosa, model_vela.tflite,
                       model_vela.npz, model.h, model.c and perhaps host.onnx (docs/npu.md)
kernels.cl, .metal     of a GPU, on demand: the kernels that are in model.so, to read
model.onnx             the model as the user gave it: the reference of `verify`
quantized.onnx         of an int8 bundle: what was made of it, and the reference instead
golden/input.npy       one input and onnxruntime's output for it (of several outputs the others are
golden/output.npy      output.1.npy, output.2.npy, ...), with the tolerance of each output in a
golden/tolerance.txt   line of its own, so that a board can check itself with no onnx at hand
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mbv3c.errors import BundleError, UsageError

SCHEMA = 4
MANIFEST = "manifest.json"
LIBRARY = "model.so"
MODEL = "model.onnx"
SOURCES = {"opencl": "kernels.cl", "metal": "kernels.metal"}  # by language
NPU_STREAM = "model_vela.npz"
NPU_HOST = "host.onnx"
QUANTIZED = "quantized.onnx"
GOLDEN_INPUT = "golden/input.npy"
GOLDEN_OUTPUT = "golden/output.npy"
GOLDEN_TOLERANCE = "golden/tolerance.txt"


@dataclass(frozen=True)
class Bundle:
    """A whole bundle on disk."""

    path: Path
    manifest: dict[str, Any]

    @property
    def library(self) -> Path:
        return self.path / LIBRARY

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def compiled_model(self) -> Path:
        """The model that the library computes: the quantized one, where there is one."""
        quantized = self.path / QUANTIZED
        return quantized if QUANTIZED in self.manifest["files"] else self.model

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.manifest["input"]["shape"])

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the model as it was given."""
        entries: dict[str, str] = self.manifest["model"]["metadata"]
        return entries

    @property
    def output_names(self) -> list[str]:
        return [output["name"] for output in self.manifest["outputs"]]


def output_files(first: Path) -> Iterator[Path]:
    """Yield the files of a model's outputs, as mbv3c_run names them: y.npy, y.1.npy, y.2.npy."""
    yield first
    for index in count(1):
        yield first.with_suffix(f".{index}.npy")


def is_npu_bundle(path: Path) -> bool:
    """Say whether a folder is a bundle for an NPU; False for what is no bundle."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "npu" in manifest


def check_replaceable(path: Path) -> None:
    """Make sure that writing over `path` destroys nothing but a bundle.

    Raises:
        UsageError: something else is there.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise UsageError(f"{path} is a folder that is no bundle; --force does not delete it")


def write_manifest(folder: Path, contents: dict[str, Any]) -> None:
    """Complete a bundle: hash every file in `folder` and write the manifest beside them."""
    files = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"schema": SCHEMA, **contents, "files": files}
    text = json.dumps(manifest, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n")


def read_bundle(path: Path) -> Bundle:
    """Open a bundle and check every file against its manifest.

    Raises:
        BundleError: `path` is no bundle, is of an unknown schema, or a file is missing or is not
            the one that was written.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BundleError(
            f"{path} has another bundle schema than {SCHEMA}; compile it again with this version"
        )
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{path / MANIFEST} is damaged: it lists no files; compile it again")
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise BundleError(f"{path} is not whole: {name} is missing; compile it again")
        if _sha256(path / name) != digest:
            raise BundleError(f"{path / name} was changed after compile; compile it again")
    return Bundle(path, manifest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
