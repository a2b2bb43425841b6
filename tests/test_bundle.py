"""A bundle is read back as it was written, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3c.bundle import write_manifest
from mbv3c.errors import BundleError
from mbv3c.manifest import MANIFEST, SCHEMA
from mbv3c.targets import open_bundle
from tests.manifests import LIBRARY


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a whole bundle, whose files hold text."""
    path = tmp_path / "bundle"
    (path / "golden").mkdir(parents=True)
    (path / "model.so").write_text("abc")
    (path / "model.onnx").write_text("")
    for name in ("input.npy", "output.npy", "tolerance.txt"):
        (path / "golden" / name).write_text("golden")
    write_manifest(path, LIBRARY)
    return path


def manifest(bundle: Path) -> dict[str, object]:
    return json.loads((bundle / MANIFEST).read_text())


def test_is_read_back(bundle: Path) -> None:
    read = open_bundle(bundle)
    assert read.path == bundle
    assert read.library == bundle / "model.so"
    assert read.model == bundle / "model.onnx"
    assert read.input_shape == (1, 3, 224, 224)
    assert read.manifest == LIBRARY
    assert read.precision.name == "fp32"


def test_manifest_holds_the_hash_of_every_other_file(bundle: Path) -> None:
    written = manifest(bundle)
    assert written["schema"] == SCHEMA
    # The test vectors of FIPS 180-2: "abc", and nothing at all.
    assert written["files"]["model.so"] == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert written["files"]["model.onnx"] == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    golden = [f"golden/{name}" for name in ("input.npy", "output.npy", "tolerance.txt")]
    assert list(written["files"]) == [*golden, "model.onnx", "model.so"]


def test_the_same_contents_give_the_same_manifest(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    write_manifest(bundle, LIBRARY)
    assert (bundle / MANIFEST).read_bytes() == before


def test_may_be_moved(bundle: Path) -> None:
    moved = bundle.rename(bundle.parent / "elsewhere")
    assert open_bundle(moved).library == moved / "model.so"


def test_manifest_takes_no_value_that_json_has_not(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(bundle, replace(LIBRARY, parity={"error": float("nan")}))
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", ["model.so", "model.onnx", "golden/input.npy"])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"is not whole: {name} is missing; compile it again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["model.so", "model.onnx", "golden/input.npy"])
def test_a_changed_file(bundle: Path, name: str) -> None:
    with (bundle / name).open("a") as file:
        file.write("x")
    with pytest.raises(BundleError, match=f"{name} was changed after compile; compile it again"):
        open_bundle(bundle)


def test_a_folder_in_the_place_of_a_file(bundle: Path) -> None:
    (bundle / "model.so").unlink()
    (bundle / "model.so").mkdir()
    with pytest.raises(BundleError, match=r"model\.so is missing"):
        open_bundle(bundle)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        open_bundle(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "absent")


def test_a_file_that_is_no_bundle(bundle: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle / "model.so")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema": 1', b"\xff\xfe\x00"])
def test_a_manifest_that_is_no_json(bundle: Path, damage: bytes) -> None:
    (bundle / MANIFEST).write_bytes(damage)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        open_bundle(bundle)


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, "1", None])
def test_another_schema(bundle: Path, schema: object) -> None:
    (bundle / MANIFEST).write_text(json.dumps(manifest(bundle) | {"schema": schema}))
    with pytest.raises(
        BundleError, match=f"has another bundle schema than {SCHEMA}; compile it again"
    ):
        open_bundle(bundle)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"manifest"', "{}"])
def test_a_manifest_that_is_something_else(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="another bundle schema"):
        open_bundle(bundle)


@pytest.mark.parametrize("files", [None, [], "model.so"])
def test_a_manifest_without_hashes(bundle: Path, files: object) -> None:
    damaged = manifest(bundle)
    del damaged["files"]
    if files is not None:
        damaged["files"] = files
    (bundle / MANIFEST).write_text(json.dumps(damaged))
    with pytest.raises(BundleError):
        open_bundle(bundle)


def test_a_target_of_another_version(bundle: Path) -> None:
    (bundle / MANIFEST).write_text(
        json.dumps(manifest(bundle) | {"target": {"name": "arm_cpx:cortex-a76"}})
    )
    with pytest.raises(BundleError, match="a target of another version: unknown target 'arm_cpx'"):
        open_bundle(bundle)
