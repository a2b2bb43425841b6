"""`--target mobile_gpu` as a user runs it: compiled, verified, run and refused, on PoCL."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.transformers.float16 import convert_float_to_float16

from mbv3c.execution.cache import cache_root
from mbv3c.execution.opencl.runtime import load_runtime
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.reference import error_of_range, run, session
from mbv3c.passes import run_pipeline
from tests.command_line import document, mbv3c, python

GENERIC = "mobile_gpu:generic_opencl"
# Verifies the bundle of the first argument, and prints what the runtime counted.
VERIFY = """
import json, sys
from pathlib import Path
from mbv3c.execution.opencl.runtime import counters
from mbv3c.pipeline import verify_bundle
result = verify_bundle(Path(sys.argv[1]))
print(json.dumps({"passed": result.document["passed"], **vars(counters())}))
"""


@pytest.fixture(scope="session", autouse=True)
def opencl() -> None:
    """Have the runtime built before any test looks at what a command prints."""
    load_runtime()


@pytest.fixture(scope="module")
def model(blocks_file: Path) -> Path:
    return blocks_file


@pytest.fixture(scope="module")
def network(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole network, whose sums are in the range of half precision."""
    return Path(shutil.copy(small_file, tmp_path_factory.mktemp("gpu")))


def compiled(model: Path, target: str, *options: object) -> tuple[Path, dict]:
    path = model.parent / "-".join(map(str, (target.replace(":", "-"), *options)))
    done = mbv3c("compile", model, "--target", target, "-o", path, "--json", *options)
    return path, document(done)


@pytest.fixture(scope="module")
def mali(model: Path) -> Path:
    path, found = compiled(model, "mobile_gpu", "--emit-source")
    assert found["target"] == "mobile_gpu:mali"
    assert found["parity"]["passed"] is True
    assert found["parity"]["exact_program"] is True
    ran_on = found["parity"]["ran_on"]
    assert "Portable Computing Language, a CPU" in ran_on
    assert ran_on.endswith("the kernels of the library, launched from this machine")
    return path


@pytest.fixture(scope="module")
def generic(model: Path) -> Path:
    """Return a bundle that this machine's device runs."""
    path, found = compiled(model, GENERIC)
    assert found["parity"]["passed"] is True
    assert found["parity"]["ran_on"].endswith("(Portable Computing Language, a CPU)")
    return path


# ---- compile ----


@pytest.mark.parametrize(
    ("target", "triple"),
    [
        ("mobile_gpu:adreno", "aarch64-linux-gnu"),
        ("mobile_gpu:mali-android", "aarch64-linux-android"),
    ],
)
def test_a_bundle_is_compiled_and_verified(model: Path, target: str, triple: str) -> None:
    path, found = compiled(model, target)
    assert found["target"] == target
    assert found["parity"]["passed"] is True
    assert found["parity"]["max_error_of_range"] < 1e-5
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["target"]["triple"] == triple
    assert manifest["keep_float"] == []
    assert {kernel["kind"] for kernel in manifest["kernels"]} >= {"gates", "depthwise"}
    assert not (path / "kernels.cl").exists()
    # EM_AARCH64: the host code is for the device, whatever machine compiled it.
    assert (path / "model.so").read_bytes()[18:20] == b"\xb7\x00"


def test_the_source_is_that_of_the_library(mali: Path) -> None:
    text = (mali / "kernels.cl").read_text()
    library = (mali / "model.so").read_bytes()
    manifest = json.loads((mali / "manifest.json").read_text())
    assert "kernels.cl" in manifest["files"]
    parts = re.split(r"^// (\w+)\n", text, flags=re.MULTILINE)
    sources = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(sources) == {f"{one['kernel']}_kernel" for one in manifest["kernels"]}
    for name, source in sources.items():
        assert source.count("__kernel void") == 1, name
        assert source.strip().encode() in library, name


def test_explain_lists_the_kernels(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    arguments = (model, "--target", "mobile_gpu:mali", "-o", path, "--no-verify", "--explain")
    done = mbv3c("compile", *arguments)
    assert done.returncode == 0, done.stderr
    assert "parity: not checked (--no-verify)" in done.stdout
    assert re.search(r"^gates_1\b.*bneck1\.se", done.stdout, re.MULTILINE)


def test_two_runs_write_identical_bundles(mali: Path, model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = mbv3c("compile", model, "--target", "mobile_gpu", "-o", again, "--emit-source")
    assert done.returncode == 0, done.stderr
    for name in json.loads((mali / "manifest.json").read_text())["files"]:
        assert (again / name).read_bytes() == (mali / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "mobile_gpu", "--precision", "int8"), 2, "choose --precision fp32 or fp16"),
        (("--target", "mobile_gpu:mali", "--cores", 2), 2, "--cores is for CPUs"),
        (("--target", "mobile_gpu:vulkan"), 2, "no code generator for Vulkan"),
        (("--target", "mobile_gpu:adreno-texture"), 2, "Divide by zero"),
        (("--target", "mobile_gpu:metal"), 2, "nothing here compiles or runs metal kernels"),
        (("--target", "mobile_gpu:g610"), 2, "unknown device 'g610' of mobile_gpu; known: mali"),
        (("--target", "host_cpu", "--emit-source"), 2, "--emit-source is for GPUs"),
        (("--target", "mobile_gpu", "--keep-float", "x"), 2, "--keep-float is for --precision"),
        (
            ("--target", "mobile_gpu", "--precision", "fp16", "--keep-float", "nothing*"),
            2,
            "--keep-float 'nothing*' matches no layer of the rewritten graph",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(
    model: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    done = mbv3c("compile", model, *arguments, "-o", tmp_path / "b")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# ---- verify ----


def test_a_second_verify_builds_no_kernel(generic: Path, mali: Path, tmp_path: Path) -> None:
    """In a process of its own each, with a cache that holds no kernel before the first."""
    for part in cache_root().glob("opencl-[kr]*"):
        (tmp_path / part.name).symlink_to(part)
    for bundle in (generic, mali):
        names = {
            one["kernel"] for one in json.loads((bundle / "manifest.json").read_text())["kernels"]
        }
        runs = [
            document(python("-c", VERIFY, bundle, MBV3C_CACHE=str(tmp_path))) for _ in range(2)
        ]
        assert [run["passed"] for run in runs] == [True, True]
        assert runs[0]["kernels_built"] + runs[0]["kernels_loaded"] == len(names)
        assert runs[0]["kernels_built"] > 0
        assert runs[1]["kernels_built"] == 0
        assert runs[1]["kernels_loaded"] == len(names)


def forged(bundle: Path, folder: Path, before: bytes, after: bytes) -> Path:
    """Return a copy of a bundle with other bytes in its library, and a manifest that fits."""
    copy = folder / "forged"
    shutil.copytree(bundle, copy)
    library = (copy / "model.so").read_bytes()
    assert before in library
    assert len(before) == len(after)
    (copy / "model.so").write_bytes(library.replace(before, after, 1))
    manifest = json.loads((copy / "manifest.json").read_text())
    digest = hashlib.sha256((copy / "model.so").read_bytes()).hexdigest()
    manifest["files"]["model.so"] = digest
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_changed_kernel_is_named(mali: Path, tmp_path: Path) -> None:
    library = (mali / "model.so").read_bytes()
    sources = re.findall(rb"__kernel void gates_1_kernel\(.*?\n}\n", library, re.DOTALL)
    (source,) = set(sources)
    changed = source.replace(b"barrier(2);", b"           ", 1)
    copy = forged(mali, tmp_path, source, changed)
    done = mbv3c("verify", copy, "--trust")
    assert done.returncode == 1
    assert "model.so has another kernel gates_1_kernel than its model gives (1 differ" in (
        done.stderr
    )


def test_a_changed_kernel_of_this_machines_library_misses_parity(
    generic: Path, tmp_path: Path
) -> None:
    """Where the library itself runs, its result decides."""
    copy = forged(generic, tmp_path, b"1.666667e-01f", b"1.766667e-01f")
    done = mbv3c("verify", copy, "--trust", "--json")
    assert document(done, code=3)["passed"] is False


def without_opencl(folder: Path) -> dict[str, str]:
    """Return an environment in which the runtime is there, and no driver."""
    cache, vendors = folder / "cache", folder / "vendors"
    cache.mkdir()
    vendors.mkdir()
    for part in cache_root().glob("opencl-runtime-*"):
        (cache / part.name).symlink_to(part)
    return {"MBV3C_CACHE": str(cache), "OCL_ICD_VENDORS": str(vendors)}


def test_without_a_device_the_remedy_is_named(mali: Path, tmp_path: Path) -> None:
    done = python("-m", "mbv3c", "verify", mali, **without_opencl(tmp_path))
    assert done.returncode == 1
    assert "pocl-opencl-icd" in done.stderr
    assert "mbv3c doctor --fetch" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_device_a_bundle_is_written_unverified(
    little_file: Path, tmp_path: Path
) -> None:
    environment = without_opencl(tmp_path)
    arguments = (
        "-m",
        "mbv3c",
        "compile",
        little_file,
        "--target",
        "mobile_gpu",
        "-o",
        tmp_path / "b",
    )
    done = python(*arguments, **environment)
    assert done.returncode == 1
    assert "pocl-opencl-icd" in done.stderr
    assert not (tmp_path / "b").exists()
    done = python(*arguments, "--no-verify", **environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "model.so").is_file()


# ---- run, bench, inspect ----


def test_run_writes_what_the_golden_output_says(generic: Path, tmp_path: Path) -> None:
    golden, out = generic / "golden", tmp_path / "y.npy"
    done = mbv3c("run", generic, "--input", golden / "input.npy", "-o", out, "--json")
    assert document(done)["ran_on"].endswith("(Portable Computing Language, a CPU)")
    wanted = np.load(golden / "output.npy")
    tolerance = float((golden / "tolerance.txt").read_text())
    assert np.abs(np.load(out) - wanted).max() <= tolerance * np.ptp(wanted)


@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_library_for_another_host_is_not_run(mali: Path, tmp_path: Path, command: str) -> None:
    if os.uname().machine == "aarch64":
        return  # there it is this machine's own
    more = ("--input", mali / "golden" / "input.npy", "-o", tmp_path / "y.npy")
    done = mbv3c(command, mali, *(more if command == "run" else ()))
    assert done.returncode == 1
    assert "nothing here runs a library for mobile_gpu:mali: its host code is for aarch64" in (
        done.stderr
    )
    assert not (tmp_path / "y.npy").exists()


def test_bench_says_what_computed(generic: Path) -> None:
    found = document(mbv3c("bench", generic, "--runs", 10, "--profile", "--json"))
    assert found["versions"]["on"].endswith("(Portable Computing Language, a CPU)")
    assert 0 < found["min_ms"] <= found["median_ms"]
    assert found["emulated"] is False
    manifest = json.loads((generic / "manifest.json").read_text())
    assert [one["kernel"] for one in found["kernels"]] == [
        one["kernel"] for one in manifest["kernels"]
    ]
    assert sum(one["share"] for one in found["kernels"]) == pytest.approx(1)
    assert all(one["us"] > 0 for one in found["kernels"])


def test_inspect_lists_kernels_and_memory(mali: Path) -> None:
    found = document(mbv3c("inspect", mali, "--json"))
    assert found["target"]["name"] == "mobile_gpu:mali"
    assert len(found["kernels"]) == 13
    assert found["memory"]["arena_bytes"] <= 1.5 * found["memory"]["arena_lower_bound"]
    gates = next(one for one in found["kernels"] if one["kind"] == "gates")
    assert gates["knobs"].keys() == {"items"}
    assert len(gates["nodes"]) == 6
    done = mbv3c("inspect", mali)
    assert done.returncode == 0
    assert "mobile_gpu:mali" in done.stdout


def test_targets_lists_gpus() -> None:
    listed = {one["name"]: one for one in document(mbv3c("targets", "--json"))["targets"]}
    assert listed["mobile_gpu:mali"]["gpu"] == "mali"
    assert listed["mobile_gpu:mali"]["default"] is True
    assert listed["mobile_gpu:adreno-android"]["triple"] == "aarch64-linux-android"
    assert listed["host_cpu:native"]["gpu"] is None
    done = mbv3c("targets")
    assert re.search(r"^mobile_gpu:mali\* .*an OpenCL device", done.stdout, re.MULTILINE)
    assert re.search(r"^mobile_gpu:metal .*nothing \(compiled\)", done.stdout, re.MULTILINE)


# ---- half precision ----


def _outputs(bundle: Path, xs: list[np.ndarray], folder: Path) -> list[np.ndarray]:
    found = []
    for number, x in enumerate(xs):
        source, result = folder / f"x{number}.npy", folder / f"y{number}.npy"
        np.save(source, x)
        document(mbv3c("run", bundle, "--input", source, "-o", result, "--json"))
        found.append(np.load(result))
    return found


def test_half_precision_errs_at_most_twice_as_much_as_onnxruntimes(
    network: Path, tmp_path: Path
) -> None:
    """Ours stores fp16 and adds in fp32; theirs is the same rewritten graph, turned to fp16."""
    path, found = compiled(network, GENERIC, "--precision", "fp16")
    assert found["parity"]["passed"] is True
    assert found["parity"]["top1_agreement"] == 1.0
    given = onnx.load(network)
    halved = convert_float_to_float16(run_pipeline(given)[0], keep_io_types=True)
    reference, half = session(given), session(halved)
    xs = parity_inputs((1, 3, 96, 96))
    wanted = [run(reference, x)[0] for x in xs]
    ours = _outputs(path, xs, tmp_path)
    errors = [
        max(error_of_range(got, exact) for got, exact in zip(results, wanted, strict=True))
        for results in (ours, [run(half, x)[0] for x in xs])
    ]
    assert 1e-5 < errors[0] <= 2 * errors[1]
    assert [int(y.argmax()) for y in ours] == [int(y.argmax()) for y in wanted]


def test_kept_layers_are_in_the_manifest_and_verified_with(network: Path) -> None:
    patterns = "features.0.conv,features.1.*"
    path, found = compiled(
        network, "mobile_gpu:mali", "--precision", "fp16", "--keep-float", patterns
    )
    assert found["parity"]["passed"] is True
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["keep_float"] == ["features.0.conv", "features.1.*"]
    verified = document(mbv3c("verify", path, "--json"))
    assert verified["max_error_of_range"] == found["parity"]["max_error_of_range"]
    assert "half precision" in verified["ran_on"] or "a CPU" not in verified["ran_on"]
    plain, _ = compiled(network, "mobile_gpu:mali", "--precision", "fp16", "--no-verify")
    sizes = [
        json.loads((one / "manifest.json").read_text())["memory"]["weight_bytes"]
        for one in (plain, path)
    ]
    assert sizes[0] < sizes[1]
