"""What a bundle says of its making: by CycloneDX's schema, and the same bytes on every machine."""

import json
import re
from importlib import metadata
from pathlib import Path

import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from mbv3c.errors import BundleError
from mbv3c.job import Job
from mbv3c.pipeline import compile_model
from mbv3c.provenance import PROVENANCE, SBOM, Making, check_provenance
from mbv3c.targets import backend_for, find_target, open_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]>'
        "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { y = Relu(x) }"
    )
    path = tmp_path_factory.mktemp("made") / "bundle"
    compile_model(model, Job(find_target("host_cpu:avx2")), path, verify=False)
    return path


def test_the_sbom_keeps_to_the_schema(bundle: Path) -> None:
    text = (bundle / SBOM).read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    broken = text.replace('"SHA-256"', '"SHA-257"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_sbom_has_every_file_and_every_package(bundle: Path) -> None:
    sbom = json.loads((bundle / SBOM).read_text())
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    listed = {one["bom-ref"]: one for one in sbom["components"]}
    for name in files.keys() - {SBOM, PROVENANCE}:
        assert listed[f"file:{name}"]["hashes"] == [{"alg": "SHA-256", "content": files[name]}]
    tvm = f"pkg:pypi/apache-tvm@{metadata.version('apache-tvm')}"
    ffi = f"pkg:pypi/apache-tvm-ffi@{metadata.version('apache-tvm-ffi')}"
    needed = {ref for ref, one in listed.items() if one.get("scope") == "required"}
    assert needed == {tvm, ffi}
    for name in ("numpy", "onnx", "onnxsim", "onnxruntime", "onnxscript", "ziglang"):
        assert f"pkg:pypi/{name}@{metadata.version(name)}" in listed
    assert re.fullmatch(r"\d+", listed[next(ref for ref in listed if "LLVM" in ref)]["version"])
    assert {"ref": "file:model.so", "dependsOn": sorted((tvm, ffi))} in sbom["dependencies"]


def test_the_provenance_says_what_was_asked_for_and_of_what(bundle: Path) -> None:
    statement = json.loads((bundle / PROVENANCE).read_text())
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert subjects == {name: files[name] for name in files if name != PROVENANCE}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    built = statement["predicate"]["buildDefinition"]
    assert built["externalParameters"]["target"]["name"] == "host_cpu:avx2"
    assert built["externalParameters"]["precision"] == "fp32"
    assert built["externalParameters"]["shapes"] == [[[1, 4, 8, 8]]]
    model = {"name": "model.onnx", "digest": {"sha256": files["model.onnx"]}}
    assert model in built["resolvedDependencies"]


def test_neither_names_a_machine_or_a_time(bundle: Path) -> None:
    text = (bundle / SBOM).read_text() + (bundle / PROVENANCE).read_text()
    assert str(bundle.parent) not in text
    assert "timestamp" not in text
    assert "serialNumber" not in text
    assert re.search(r"20\d\d-\d\d-\d\dT", text) is None


@pytest.mark.parametrize("name", [SBOM, PROVENANCE])
def test_what_says_something_else_is_refused(bundle: Path, name: str) -> None:
    """Versions of packages that are not here are taken as they are told."""
    opened = open_bundle(bundle)
    backend = backend_for(opened)
    making = Making(backend.program, backend.needed, {"LLVM": "another"})
    path = bundle / name
    given = path.read_text()
    numpy, digest = metadata.version("numpy"), opened.files["model.so"]
    try:
        path.write_text(given.replace(numpy, "9.9"))
        check_provenance(opened, making)
        for other in (given.replace(digest, "0" * 64), given.replace("avx2", "avx3"), "[]"):
            path.write_text(other)
            with pytest.raises(BundleError, match=f"{name} does not say what is in the bundle"):
                check_provenance(opened, making)
    finally:
        path.write_text(given)
