"""What a bundle says of itself: the schema of manifest.json, as types.

A manifest is read once, checked field by field, and written from the same types. A backend adds
its own fields in a subclass of `Manifest`.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbv3c.door import formats
from mbv3c.door.documents import MOST_DOCUMENT, parse_json
from mbv3c.door.files import Refused, read_plain
from mbv3c.errors import BundleError
from mbv3c.precision import PRECISIONS, Precision

SCHEMA = 5
MANIFEST = formats.MANIFEST
SIGNATURE = "manifest.sig"  # of the bytes of manifest.json
# Most bundles say nothing of them.
_ONLY_WHERE_THERE = ("further_shapes", "c_library", "c_source", "without", "dense_weights")


@dataclass(frozen=True)
class TensorRecord:
    """An input or an output of the bundle's program.

    Attributes:
        name: the tensor's name in the model as given.
        shape: the extents, outermost first.
        dtype: numpy's name of the element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelRecord:
    """The model as given.

    Attributes:
        name: the name of the graph.
        metadata: the entries of ONNX's metadata_props.
    """

    name: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class PassRecord:
    """A pass of `optimize` that ran.

    Attributes:
        name: the name of the pass.
        matched: the number of rewrites that it made.
        refused: the number of places that it left alone.
    """

    name: str
    matched: int
    refused: int


@dataclass(frozen=True)
class QuantizationRecord:
    """How the quantized model was made.

    Attributes:
        model: the file of the quantized model in the bundle.
        calibration: where the inputs for calibration came from, in words.
        random_inputs: whether these inputs were random numbers.
        calibrated_on: the number of inputs that ranges were taken from.
        method: a method of `mbv3c.quantization.options.METHODS`.
        layers_in_fp32: the names of layers that were left in fp32.
    """

    model: str
    calibration: str
    random_inputs: bool
    calibrated_on: int
    method: str
    layers_in_fp32: tuple[str, ...]


@dataclass(frozen=True)
class TunedKernel:
    """Knobs of a kernel that were measured, not chosen by the default rules.

    Attributes:
        key: the kind and the shape of the kernel, as tuning databases write them.
        knobs: the value of every knob.
        origin: `tuned` or `transferred`, see `mbv3c.lowering.plan.ORIGINS`.
    """

    key: str
    knobs: dict[str, Any]
    origin: str


@dataclass(frozen=True)
class TargetRecord:
    """The target, by its name; backends add what else they record.

    Attributes:
        name: FAMILY:DEVICE.
    """

    name: str


@dataclass(frozen=True)
class Manifest:
    """What every bundle says of itself.

    Attributes:
        mbv3c: the version that compiled the bundle.
        model: the model as given.
        target: the target.
        precision: the precision's name, a key of `PRECISIONS`.
        input: the first input, which is the only one of most models.
        outputs: the outputs, in the model's order.
        passes: the passes, in the order in which they ran.
        keep_float: for fp16, patterns for the names of layers that stay in fp32.
        tuned_kernels: the kernels whose knobs were measured.
        quantization: how the quantized model was made; None if the model came as it is.
        parity: the verdict in its documented JSON form; None if nothing was verified.
        tools: the versions of the packages that made the bundle.
        further_inputs: the other inputs, in the model's order.
    """

    mbv3c: str
    model: ModelRecord
    target: TargetRecord
    precision: str
    input: TensorRecord
    outputs: tuple[TensorRecord, ...]
    passes: tuple[PassRecord, ...]
    keep_float: tuple[str, ...]
    tuned_kernels: tuple[TunedKernel, ...]
    quantization: QuantizationRecord | None
    parity: dict[str, Any] | None
    tools: dict[str, str]
    further_inputs: tuple[TensorRecord, ...] = field(default=(), kw_only=True)

    @property
    def inputs(self) -> tuple[TensorRecord, ...]:
        """All inputs, in the model's order."""
        return (self.input, *self.further_inputs)

    @property
    def asked(self) -> dict[str, Any]:
        """What the bundle was asked to be, as provenance has it: values of JSON."""
        inputs = [{"name": one.name, "shape": one.shape, "dtype": one.dtype} for one in self.taken]
        made = {
            "target": self.target,
            "precision": self.precision,
            "keep_float": self.keep_float,
            "quantization": self.quantization,
            "tuned_kernels": self.tuned_kernels,
        }
        return {**msgspec.to_builtins(made), "inputs": msgspec.to_builtins(inputs)}

    @property
    def has_code(self) -> bool:
        """Whether a bundle has native code beside the program of a backend that is none."""
        return False

    @property
    def taken(self) -> tuple[TensorRecord, ...]:
        """The inputs as `mbv3c run` takes them, which are those of the model as given."""
        return self.inputs

    @property
    def accepted(self) -> tuple[tuple[TensorRecord, ...], ...]:
        """The inputs for every shape that the bundle was compiled for; the first comes first."""
        return (self.taken,)


ManifestType = TypeVar("ManifestType", bound=Manifest)


@dataclass(frozen=True)
class ManifestFile:
    """A manifest.json that was read, of which only what concerns every bundle is known.

    Attributes:
        path: the file.
        content: the bytes of the file.
        document: the JSON document.
        target: FAMILY:DEVICE.
        files: the sha256 of every other file, by its path in the bundle.
    """

    path: Path
    content: bytes
    document: dict[str, Any]
    target: str
    files: dict[str, str]

    def parse(self, kind: type[ManifestType]) -> ManifestType:
        """Check every field and return the manifest of a backend.

        Raises:
            BundleError: a field is missing, or has another type or value than the schema says.
        """
        manifest = _converted(self.document, kind, self.path)
        if manifest.precision not in PRECISIONS:
            raise _damaged(self.path, f"its precision is {manifest.precision!r}")
        return manifest


@dataclass(frozen=True)
class _Head:
    schema: int
    target: TargetRecord
    files: dict[str, str]


def read_manifest(folder: Path) -> ManifestFile:
    """Read the manifest of a bundle, and check the fields that do not depend on the backend.

    Raises:
        BundleError: `folder` is no bundle, its schema is another one, or the file is damaged.
    """
    path = folder / MANIFEST
    try:
        content = read_plain(path, MOST_DOCUMENT)
        document = parse_json(content)
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}") from error
    except (OSError, Refused) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BundleError(
            f"{folder} has another bundle schema than {SCHEMA}; compile it again with this version"
        )
    head = _converted(document, _Head, path)
    return ManifestFile(path, content, document, head.target.name, head.files)


def manifest_digest(folder: Path) -> str:
    """Return the sha256 of a bundle's manifest, which holds those of all other files."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def manifest_text(manifest: Manifest, files: dict[str, str]) -> str:
    """Return the text of manifest.json; `files` holds the sha256 of every other file."""
    fields = msgspec.to_builtins(manifest)
    for name in _ONLY_WHERE_THERE:
        if not fields.get(name):
            fields.pop(name, None)
    document = {"schema": SCHEMA, **fields, "files": files}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def precision_of(manifest: Manifest) -> Precision:
    """Return the precision of a manifest that was checked."""
    return PRECISIONS[manifest.precision]


_Type = TypeVar("_Type")


def _converted(document: dict[str, Any], kind: type[_Type], path: Path) -> _Type:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(f"{path} is damaged: {reason}; compile it again")
