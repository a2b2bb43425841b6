"""The bundle: the folder that `compile` writes and everything else reads.

manifest.json          what it is, for which target, made how, with which verdict; the sha256
                       of every other file
manifest.sig           on demand: the signature of manifest.json
model.so               the library; in its place an NPU has model.tosa, model_vela.tflite,
                       model_vela.npz, model.h, model.c and perhaps host.onnx (docs/npu.md)
kernels.cl, .metal     for a GPU, on demand: the text of the kernels that are in model.so
sbom.cdx.json          what it consists of, what made it, and what it needs where it runs
provenance.json        what was asked for, of which model, with which versions
model.onnx             the model as the user gave it: the reference of `verify`
quantized.onnx         in an int8 bundle: the quantized model, which is then the reference
shapes.txt             in a bundle for several shapes of the input: a line for each, with the
                       function of the library that takes it; further shapes have their files
                       in golden/1, golden/2, ... and in quantized.1.onnx, ...
golden/input.npy       one input and onnxruntime's output for it (of models with several, the
golden/output.npy      others are input.1.npy, output.1.npy, output.2.npy, ...), with the
golden/tolerance.txt   tolerance of each output in a line of its own, for checks on a board
golden/scale.npy       range of every element, where those of channels differ by a factor of 100
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.door.files import Refused, plain_file, read_plain
from mbv3c.door.models import read_written
from mbv3c.errors import BundleError, UsageError
from mbv3c.feeds import Feed, numbered_files, save_array, save_feed, shape_text, shapes_of_feed
from mbv3c.manifest import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    ManifestFile,
    manifest_text,
    precision_of,
    read_manifest,
)
from mbv3c.precision import Precision

LIBRARY = "model.so"
MODEL = "model.onnx"
SOURCES = {"opencl": "kernels.cl", "metal": "kernels.metal"}  # by language
NPU_STREAM = "model_vela.npz"
NPU_HOST = "host.onnx"
QUANTIZED = "quantized.onnx"
SHAPES = "shapes.txt"
MAIN = "main"
WATCHED = "watched_"  # before the name of a function that first takes an instrument
GOLDEN = "golden"
GOLDEN_INPUT = "golden/input.npy"
GOLDEN_OUTPUT = "golden/output.npy"
GOLDEN_TOLERANCE = "golden/tolerance.txt"
LABELS = " labels"  # behind a share of labels that may differ
SCALED = " scaled"  # behind a tolerance that is a fraction of each element's range
_MOST_SHAPES = 1 << 20  # bytes of shapes.txt
MOST_FILE = 1 << 32  # bytes of any file


@dataclass(frozen=True)
class Bundle:
    """A whole bundle on disk.

    Attributes:
        path: the folder.
        manifest: what it says of itself, checked; in the type of its backend.
        files: the sha256 of every file but the manifest, by its path in the folder.
    """

    path: Path
    manifest: Manifest
    files: dict[str, str]

    @property
    def library(self) -> Path:
        return self.path / LIBRARY

    @property
    def model(self) -> Path:
        """The model as given."""
        return self.path / MODEL

    @property
    def quantized(self) -> Path | None:
        """The quantized model; None in a bundle that has none."""
        return self.path / QUANTIZED if QUANTIZED in self.files else None

    @property
    def compiled_model(self) -> Path:
        """The model that the program computes: the quantized one, where there is one."""
        return self.quantized or self.model

    @property
    def precision(self) -> Precision:
        return precision_of(self.manifest)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the first input, which is the only one of most models."""
        return self.manifest.input.shape

    @property
    def output_names(self) -> list[str]:
        return [output.name for output in self.manifest.outputs]


@dataclass(frozen=True)
class Golden:
    """An input and what the program must give for it, for boards that check themselves.

    Attributes:
        input: the input as the program takes it.
        outputs: its outputs as they should be.
        allowed: the largest error of each output, as a fraction of the output's range; of labels
            the share that may differ.
        labels: for each output, whether it holds labels or other whole numbers, which are equal
            or not.
        scales: for each output that is allowed a fraction of several ranges the range of every
            element, fp32 in the output's shape; None for others, and nothing if there are none.
    """

    input: Feed
    outputs: Sequence[NDArray[Any]]
    allowed: Sequence[float]
    labels: Sequence[bool]
    scales: Sequence[NDArray[np.float32] | None] = ()


def entry_name(index: int) -> str:
    """Return the function of a library that takes the first shape (0), or a further one."""
    return f"{MAIN}_{index}" if index else MAIN


def quantized_name(index: int) -> str:
    """Return the file of the quantized model for the first shape (0), or for a further one."""
    return QUANTIZED.replace(".", f".{index}.") if index else QUANTIZED


def write_shapes(folder: Path, shapes: Sequence[Sequence[Sequence[int]]]) -> None:
    """Say which function of the library in a folder takes inputs of which shapes."""
    lines = [f"{entry_name(index)} {shape_text(each)}\n" for index, each in enumerate(shapes)]
    (folder / SHAPES).write_text("".join(lines))


def entry_for(folder: Path, feed: Feed) -> str:
    """Return the function of the library in a folder that takes an input: by its shape.

    Raises:
        UsageError: the library takes several shapes, and this is none of them.
        BundleError: the list of shapes is damaged.
    """
    path = folder / SHAPES
    if not path.is_file():
        return MAIN
    try:
        lines = read_plain(path, _MOST_SHAPES).decode().splitlines()
        entries = dict(line.split(" ", 1)[::-1] for line in lines)
    except ValueError as error:
        raise BundleError(f"{path} is damaged: {error}; compile it again") from error
    given = shape_text(shapes_of_feed(feed))
    if given not in entries:
        raise UsageError(
            f"{folder} is compiled for inputs of the shapes {', '.join(entries)}, and this one is "
            f"{given}; compile the model for it, too"
        )
    return entries[given]


def read_listed(bundle: Bundle, name: str) -> bytes:
    """Read a file of a bundle.

    Raises:
        BundleError: the bundle has no such file, or it cannot be read.
    """
    if name not in bundle.files:
        raise BundleError(f"{bundle.path} is not whole: {name} is missing; compile it again")
    try:
        return read_plain(bundle.path / name, MOST_FILE)
    except (OSError, Refused) as error:
        raise BundleError(f"{bundle.path / name} cannot be read: {error}") from error


def read_bundled(path: Path) -> onnx.ModelProto:
    """Read a model of a bundle.

    Raises:
        BundleError: it is none, or not one that `compile` writes.
    """
    try:
        return read_written(path)
    except (OSError, Refused) as error:
        raise BundleError(f"{path} is damaged: {error}; compile it again") from error


def write_golden(folder: Path, golden: Golden, index: int = 0) -> None:
    """Write the golden files of a shape into the folder of a bundle; the first shape comes first.

    Those of further shapes lie in golden/1, golden/2 and so on.
    """
    place = folder / GOLDEN
    if index:
        place /= str(index)
    place.mkdir()
    golden_input, golden_output, tolerance = (
        place / Path(name).name for name in (GOLDEN_INPUT, GOLDEN_OUTPUT, GOLDEN_TOLERANCE)
    )
    save_feed(golden_input, golden.input)
    for output, file in zip(golden.outputs, numbered_files(golden_output), strict=False):
        save_array(file, output)
    for scale, file in zip(golden.scales, golden_scales(place), strict=False):
        if scale is not None:
            save_array(file, scale)
    scales = golden.scales or [None] * len(golden.outputs)
    lines = [
        f"{tolerance_text(allowed)}{LABELS if labels else SCALED if scale is not None else ''}\n"
        for allowed, labels, scale in zip(golden.allowed, golden.labels, scales, strict=True)
    ]
    tolerance.write_text("".join(lines))


def tolerance_text(allowed: float) -> str:
    """Write a tolerance as golden files have it."""
    return f"{allowed:.9g}"


def golden_scales(place: Path) -> Iterator[Path]:
    """Yield the file with the ranges of each output's elements, where there are several ranges."""
    return numbered_files(place / "scale.npy")


def damaged_parity(bundle: Bundle) -> BundleError:
    """Return the error of a bundle whose recorded verdict is not one that mbv3c wrote."""
    return BundleError(
        f"{bundle.path / MANIFEST} is damaged: its parity is not in the documented form "
        "(docs/json.md); compile it again"
    )


def check_replaceable(path: Path) -> None:
    """Make sure that writing over `path` destroys nothing but a bundle.

    Raises:
        UsageError: something else is there.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise UsageError(f"{path} is a folder that is no bundle; --force does not delete it")


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Complete a bundle: hash every file in `folder` and write the manifest beside them."""
    files = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, SIGNATURE)
    }
    (folder / MANIFEST).write_text(manifest_text(manifest, files))
    return Bundle(folder, manifest, files)


def read_files(path: Path) -> ManifestFile:
    """Open a bundle and check every file against its manifest.

    Raises:
        BundleError: `path` is no bundle, its schema is another one, a file is missing or is not
            the one that was written, or something was added.
    """
    manifest = read_manifest(path)
    for name, digest in manifest.files.items():
        if not _is_inside(name):
            raise BundleError(f"{path / MANIFEST} is damaged: {name!r} is no file of a bundle")
        if not (path / name).is_file():
            raise BundleError(f"{path} is not whole: {name} is missing; compile it again")
        if _sha256(path / name) != digest:
            raise BundleError(f"{path / name} was changed after compile; compile it again")
    for name in _added(path, manifest.files):
        raise BundleError(
            f"{path / name} was added after compile: a bundle holds what its manifest lists, and "
            "nothing beside it that a compiler or a device might read; move it elsewhere"
        )
    return manifest


def _added(folder: Path, listed: Collection[str]) -> Iterator[str]:
    """Yield what lies in a bundle and is not listed; hidden files are those of other programs."""
    above = {str(parent) for name in listed for parent in PurePosixPath(name).parents} | {"."}
    known = {*listed, *above, MANIFEST, SIGNATURE}
    for place in sorted(above):
        for name in _names(folder / place):
            path = str(PurePosixPath(place) / name)
            if not name.startswith(".") and path not in known:
                yield path


def check_files(bundle: Bundle, program: Sequence[str]) -> None:
    """Make sure that a bundle lists what every bundle has, and its program.

    Args:
        bundle: the bundle, whose files are as they are listed.
        program: the files that its backend runs.

    Raises:
        BundleError: a file is not listed.
    """
    for name in (MODEL, GOLDEN_INPUT, GOLDEN_OUTPUT, GOLDEN_TOLERANCE, *program):
        if name not in bundle.files:
            raise BundleError(f"{bundle.path} is not whole: {name} is missing; compile it again")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _sha256(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with plain_file(path, MOST_FILE) as file:
            opened: Any = file
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, Refused) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
