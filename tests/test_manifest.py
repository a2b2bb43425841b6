"""Damaged manifests give one sentence that names the file and the field."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mbv3c.errors import BundleError
from mbv3c.manifest import MANIFEST, Manifest, manifest_text, precision_of, read_manifest
from mbv3c.precision import FP32
from mbv3c.targets.library.manifest import LibraryManifest
from tests.manifests import LIBRARY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text(manifest_text(LIBRARY, {"model.so": "00"}))
    return tmp_path


def change(folder: Path, place: tuple[str, ...], value: object) -> None:
    """Write another value into a manifest, or drop the field where the value is `...`."""
    path = folder / MANIFEST
    document = inner = json.loads(path.read_text())
    *parents, field = place
    for name in parents:
        inner = inner[name]
    if value is ...:
        del inner[field]
    else:
        inner[field] = value
    path.write_text(json.dumps(document))


def test_is_read_back(folder: Path) -> None:
    read = read_manifest(folder)
    assert (read.target, read.files) == ("arm_cpu:cortex-a76", {"model.so": "00"})
    assert read.parse(LibraryManifest) == LIBRARY
    assert precision_of(LIBRARY) == FP32


SAID_BY_FEW = {"further_shapes", "c_library", "c_source", "without", "dense_weights"}


def test_most_bundles_say_nothing_of_further_shapes_and_c_libraries(folder: Path) -> None:
    assert not SAID_BY_FEW & read_manifest(folder).document.keys()
    manifest = read_manifest(folder).parse(LibraryManifest)
    assert (manifest.further_shapes, manifest.c_library) == ((), None)


def test_what_all_bundles_say_can_be_read_without_knowing_the_backend(folder: Path) -> None:
    read = read_manifest(folder).parse(Manifest)
    assert (read.target.name, read.outputs) == ("arm_cpu:cortex-a76", LIBRARY.outputs)


@pytest.mark.parametrize(
    "field",
    sorted({*msgspec.to_builtins(LIBRARY)} - {"further_inputs", *SAID_BY_FEW}),
)
def test_a_missing_field(folder: Path, field: str) -> None:
    change(folder, (field,), ...)
    with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*`{field}`; compile it"):
        read_manifest(folder).parse(LibraryManifest)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("mbv3c",), 5, r"Expected `str`, got `int` - at `\$\.mbv3c`"),
        (("target",), "host_cpu", r"Expected `object`, got `str` - at `\$\.target`"),
        (("target", "cores"), "4", r"Expected `int`, got `str` - at `\$\.target\.cores`"),
        (("target", "cores"), 4.5, r"Expected `int`, got `float` - at `\$\.target\.cores`"),
        (("target", "name"), ..., r"missing required field `name` - at `\$\.target`"),
        (("target", "triple"), ..., r"missing required field `triple` - at `\$\.target`"),
        (("input", "shape"), 3, r"Expected `array`, got `int` - at `\$\.input\.shape`"),
        (("input", "shape"), [1, None], r"Expected `int`, got `null` - at `\$\.input\.shape"),
        (("outputs",), [{"name": "y"}], r"missing required field `shape` - at `\$\.outputs"),
        (("outputs",), None, r"Expected `array`, got `null` - at `\$\.outputs`"),
        (("kernels",), [[]], r"Expected `object`, got `array` - at `\$\.kernels"),
        (("memory", "arena_bytes"), True, r"got `bool` - at `\$\.memory\.arena_bytes`"),
        (("tools", "onnx"), 1, r"Expected `str`, got `int` - at `\$\.tools"),
        (("parity",), "passed", r"Expected `object \| null`, got `str` - at `\$\.parity`"),
        (("dense_weights",), "bf17", r"Invalid enum value 'bf17' - at `\$\.dense_weights`"),
        (("files", "model.so"), 7, r"Expected `str`, got `int` - at `\$\.files"),
    ],
)
def test_a_field_of_another_type(
    folder: Path, place: tuple[str, ...], value: Any, said: str
) -> None:
    change(folder, place, value)
    with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*{said}.*; compile it"):
        read_manifest(folder).parse(LibraryManifest)


@pytest.mark.parametrize("name", ["fp8", "", "FP32"])
def test_an_unknown_precision(folder: Path, name: str) -> None:
    change(folder, ("precision",), name)
    with pytest.raises(BundleError, match=f"is damaged: its precision is '{name}'; compile it"):
        read_manifest(folder).parse(LibraryManifest)
