"""The command line as a user runs it: real files, and real processes where they matter."""

import json
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command_line import command_line, document, mbv3c, mbv3c_process, python

MODEL = ("--variant", "small", "--resolution", "96", "--classes", "10")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "small.onnx"
    done = mbv3c("build", *MODEL, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def host_bundle(small_file: Path) -> Path:
    path = small_file.parent / "host"
    done = mbv3c("compile", small_file, "--target", "host_cpu", "-o", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def arm_bundle(emulator_kit: object, small_file: Path) -> Path:
    path = small_file.parent / "arm"
    done = mbv3c("compile", small_file, "--target", "arm_cpu", "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    result = document(done)
    assert result["bundle"] == str(path)
    assert result["target"] == "arm_cpu:cortex-a76"
    assert result["parity"]["ran_on"] == "emulated cortex-a76"
    assert result["parity"]["exact_program"] is True
    return path


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mbv3c', '--help']\n"
        "from mbv3c.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'onnx', 'tvm', 'numpy', 'onnxruntime'} & set(sys.modules), sys.modules.keys()"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_build_prints_the_papers_counts(tmp_path: Path) -> None:
    done = mbv3c("build", "--variant", "large", "-o", tmp_path / "large.onnx", "--json")
    assert document(done)["params"] == 5_483_032
    assert document(done)["madds"] == 216_589_760


def test_optimize_reports_and_is_idempotent(small_file: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    first = document(mbv3c("optimize", small_file, "-o", once, "--json"))
    fired = {one["name"]: len(one["matched"]) for one in first["passes"] if one["matched"]}
    assert fired == {
        "fold_batchnorm": 34,
        "fuse_hardsigmoid": 9,
        "fuse_hardswish": 19,
        "fold_se": 9,
    }
    assert max(one["max_error_of_range"] for one in first["passes"]) < 1e-5
    second = document(mbv3c("optimize", once, "-o", twice, "--json"))
    assert not any(one["matched"] for one in second["passes"])
    assert once.read_bytes() == twice.read_bytes()


def test_optimize_prints_refusals_with_reasons(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4] x) => (float[1, 4] y)
        <float three = {2.9}, float zero = {0.0}, float six = {6.0}>
        {
            [add] a = Add(x, three)
            [clip] c = Clip(a, zero, six)
            [mul] m = Mul(x, c)
            [div] y = Div(m, six)
        }"""
    )
    onnx.save(model, tmp_path / "near.onnx")
    done = mbv3c("optimize", tmp_path / "near.onnx", "-o", tmp_path / "out.onnx")
    assert "fuse_hardswish refused div: Add's constant must be 3, got 2.9" in done.stdout


def test_optimize_explains_by_node(small_file: Path, tmp_path: Path) -> None:
    done = mbv3c("optimize", small_file, "-o", tmp_path / "out.onnx", "--explain")
    assert "fold_se rewrote features.4.se" in done.stdout.splitlines()
    assert "fuse_hardswish rewrote features.0.act" in done.stdout.splitlines()


def test_host_bundle_verifies(host_bundle: Path) -> None:
    done = mbv3c("verify", host_bundle, "--json")
    assert done.returncode == 0
    parity = document(done)
    assert parity["passed"] is True
    assert parity["ran_on"] == "this machine"
    assert parity["max_error_of_range"] < 1e-5
    assert parity["top1_agreement"] == 1.0


def test_arm_bundle_verifies_under_the_emulator(arm_bundle: Path) -> None:
    done = mbv3c("verify", arm_bundle, "--json")
    assert done.returncode == 0
    assert document(done)["ran_on"] == "emulated cortex-a76"


def test_android_bundle_verifies_under_the_emulator(
    emulator_kit: object, small_file: Path, tmp_path: Path
) -> None:
    target = "arm_cpu:cortex-a53-android"
    done = mbv3c("compile", small_file, "--target", target, "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["ran_on"] == "emulated cortex-a53"


def test_without_an_emulator_the_same_program_is_checked_here(
    arm_bundle: Path, tmp_path: Path
) -> None:
    done = mbv3c("verify", arm_bundle, "--json", MBV3C_CACHE=str(tmp_path))
    assert done.returncode == 0
    parity = document(done)
    assert parity["exact_program"] is False
    assert "not the arm_cpu:cortex-a76 library itself" in parity["ran_on"]


def test_two_runs_write_identical_bundles(
    arm_bundle: Path, small_file: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert mbv3c("compile", small_file, "--target", "arm_cpu", "-o", again).returncode == 0
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 6
    for name in files:
        assert (again / name).read_bytes() == (arm_bundle / name).read_bytes(), name


def test_perturbed_weight_in_the_library_is_found(host_bundle: Path, tmp_path: Path) -> None:
    """One weight, 1 % off: compile such a model and put its library into the true bundle."""
    model = onnx.load(host_bundle / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "features.0.conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "off.onnx")
    off = tmp_path / "off"
    arguments = ("--target", "host_cpu", "-o", off, "--no-verify")
    assert mbv3c("compile", tmp_path / "off.onnx", *arguments).returncode == 0
    forged = tmp_path / "forged"
    shutil.copytree(host_bundle, forged)
    shutil.copy(off / "model.so", forged / "model.so")
    manifest = json.loads((forged / "manifest.json").read_text())
    manifest["files"]["model.so"] = json.loads((off / "manifest.json").read_text())["files"][
        "model.so"
    ]
    (forged / "manifest.json").write_text(json.dumps(manifest))
    done = mbv3c("verify", forged, "--json")
    assert document(done, code=3)["passed"] is False


def test_run_writes_what_the_golden_output_says(host_bundle: Path, tmp_path: Path) -> None:
    golden = host_bundle / "golden"
    out = tmp_path / "y.npy"
    done = mbv3c("run", host_bundle, "--input", golden / "input.npy", "-o", out, "--json")
    assert done.returncode == 0
    wanted = np.load(golden / "output.npy")
    tolerance = float((golden / "tolerance.txt").read_text())
    assert np.abs(np.load(out) - wanted).max() <= tolerance * np.ptp(wanted)


def test_run_refuses_another_shape(host_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    done = mbv3c("run", host_bundle, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 2
    assert "the bundle wants float32 (1, 3, 96, 96)" in done.stderr
    assert not (tmp_path / "y.npy").exists()


def test_hardswish_as_one_operator_without_batchnorm(small_file: Path, tmp_path: Path) -> None:
    """What torchvision and timm export: what `optimize` leaves, but for the SE gates."""
    fused = tmp_path / "fused.onnx"
    assert mbv3c("optimize", small_file, "-o", fused).returncode == 0
    model = onnx.load(fused)
    operators = {node.op_type for node in model.graph.node}
    assert "HardSwish" in operators
    assert "BatchNormalization" not in operators
    done = mbv3c("compile", fused, "--target", "host_cpu", "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True


def test_quiet_on_stderr_but_for_progress(host_bundle: Path) -> None:
    done = mbv3c_process("verify", host_bundle)
    assert all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("compile", "--target", "arm_cpx"), 2, "unknown target 'arm_cpx'; known: arm_cpu"),
        (("compile", "--target", "arm_cpu:x1"), 2, "unknown device 'x1' of arm_cpu; known: co"),
        (("compile", "--target", "npu"), 1, "pip install 'mbv3c[npu]'"),
        (("compile", "--target", "npu:u55"), 2, "unknown device 'u55' of npu; known: ethos-u55"),
        (("compile", "--target", "host_cpu", "--sram", "9"), 2, "--sram are for --target npu"),
        (("compile", "none.onnx", "--target", "host_cpu"), 2, "no such file: none.onnx"),
        (("compile", "--target", "host_cpu", "--precision", "fp8"), 2, "unknown precision 'fp8'"),
        (
            ("compile", "--target", "arm_cpu:cortex-a53", "--precision", "fp16"),
            2,
            "arm_cpu:cortex-a53 does not compute in fp16; these do: arm_cpu:cortex-a76",
        ),
        (("build", "--resolution", "100"), 2, "resolution 100 is not supported"),
        (("build", "--head", "ssdlite", "--resolution", "224"), 2, "head ssdlite; choose 320"),
        (("build", "--variant", "medium"), 2, "unknown variant 'medium'; known: large, small"),
        (("build", "--classes", "0"), 2, "classes must be at least 1"),
        (("build", "-o", "nowhere/m.onnx"), 2, "the folder nowhere does not exist"),
        (("verify", "none"), 1, "none is no bundle"),
        (("compile", "--target", "host_cpu", "--opset", "13"), 2, "--opset belongs to a MODEL"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = mbv3c(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_errors_are_json_too(tmp_path: Path) -> None:
    done = mbv3c("verify", tmp_path, "--json")
    assert document(done, code=1)["error"]["kind"] == "bundle"


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["a"], name="first", domain="my.domain"),
        helper.make_node("Frobnicate", ["a"], ["y"], name="second", domain="my.domain"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("compile", tmp_path / "m.onnx", "--target", "host_cpu", "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "StringNormalizer (nodes: first); Frobnicate (nodes: second)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def dynamic_file(small_file: Path) -> Path:
    """Return the same network, of any batch."""
    model = onnx.load(small_file)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    path = small_file.parent / "dynamic.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def two_images(small_file: Path) -> Path:
    """Return what `optimize --batch 2` makes of the network."""
    path = small_file.parent / "two_images.onnx"
    done = mbv3c("optimize", small_file, "--batch", 2, "-o", path, "--json", "--prove")
    assert document(done)["proof_failed"] == []
    return path


def test_another_batch(small_file: Path, two_images: Path, tmp_path: Path) -> None:
    (written,) = onnx.load(two_images).graph.input
    assert written.type.tensor_type.shape.dim[0].dim_value == 2
    arguments = (small_file, "--batch", 2, "--json")
    done = mbv3c("compile", *arguments, "--target", "host_cpu", "-o", tmp_path / "b")
    assert document(done)["parity"]["passed"] is True
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["input"]["shape"] == [2, 3, 96, 96]
    assert manifest["outputs"][0]["shape"] == [2, 10]
    assert document(mbv3c("inspect", *arguments))["architecture"]["batch"] == 2


def test_a_dynamic_batch_needs_a_shape(dynamic_file: Path, tmp_path: Path) -> None:
    done = mbv3c("compile", dynamic_file, "--target", "host_cpu", "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "--input-shape 1,3,224,224" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fixed", [("--input-shape", "2,3,96,96"), ("--batch", "2")])
def test_a_dynamic_batch_that_is_fixed_is_the_network_of_that_batch(
    dynamic_file: Path, two_images: Path, fixed: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "o.onnx"
    done = mbv3c("optimize", dynamic_file, *fixed, "-o", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == two_images.read_bytes()


def test_a_batch_that_is_built_in_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4, 6, 6] x) => (float[2, 72] y) <int64[2] s = {2, 72}> {
            [flat] y = Reshape(x, s)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("optimize", tmp_path / "m.onnx", "--batch", 2, "-o", tmp_path / "o.onnx")
    assert done.returncode == 1
    assert "--batch 2 is not possible: node 'flat' (Reshape) has the shape [2, 72]" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_another_opset(small_file: Path, tmp_path: Path) -> None:
    out, again, bundle = tmp_path / "o.onnx", tmp_path / "o2.onnx", tmp_path / "b"
    done = mbv3c("optimize", small_file, "-o", out, "--opset", 11, "--json", "--prove")
    steps = document(done)["passes"]
    assert steps[-1]["name"] == "convert_opset"
    assert len(steps[-1]["matched"]) == 19
    written = onnx.load(out)
    assert written.opset_import[0].version == 11
    assert "HardSwish" not in {node.op_type for node in written.graph.node}
    assert mbv3c("optimize", out, "-o", again, "--opset", 11).returncode == 0
    assert again.read_bytes() == out.read_bytes()
    found = document(mbv3c("inspect", out, "--opset", 18, "--json"))
    assert found["architecture"]["activations"]["hardswish"] == 19
    done = mbv3c("compile", out, "--opset", 13, "--target", "host_cpu", "-o", bundle)
    assert done.returncode == 0, done.stderr
    assert onnx.load(bundle / "model.onnx").opset_import[0].version == 13


def test_an_opset_that_does_not_work_is_an_error(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 4] x) => (float[1, 4] y) <float[4] w = {1, 1, 1, 1}> {
            [norm] y = LayerNormalization(x, w)
        }"""
    )
    onnx.save(model, tmp_path / "m.onnx")
    done = mbv3c("optimize", tmp_path / "m.onnx", "--opset", 13, "-o", tmp_path / "o.onnx")
    assert done.returncode == 1
    assert "LayerNormalization (node 'norm') exists from opset 17 on" in done.stderr
    assert "the lowest that works is 17" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_existing_bundle_is_kept_without_force(host_bundle: Path, small_file: Path) -> None:
    before = (host_bundle / "manifest.json").stat()
    done = mbv3c("compile", small_file, "--target", "host_cpu", "-o", host_bundle)
    assert done.returncode == 2
    assert "write over it with --force" in done.stderr
    assert (host_bundle / "manifest.json").stat() == before


def test_damaged_bundle_is_refused(host_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(host_bundle, copy)
    data = bytearray((copy / "model.so").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.so").write_bytes(data)
    done = mbv3c("verify", copy)
    assert done.returncode == 1
    assert "was changed after compile" in done.stderr


def test_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = mbv3c_process(
        "build", "--variant", "small", "-o", tmp_path / "m.onnx", preexec_fn=limit
    )
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_compile_leaves_nothing(
    sent: signal.Signals, small_file: Path, tmp_path: Path
) -> None:
    command = command_line("compile", small_file, "--target", "host_cpu", "-o", tmp_path / "b")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "compiling" not in process.stderr.readline():
            time.sleep(0)
        process.send_signal(sent)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_targets_lists_what_is_there() -> None:
    listed = document(mbv3c("targets", "--json"))
    names = {target["name"] for target in listed["targets"]}
    assert {"arm_cpu:cortex-a76", "arm_cpu:cortex-a53-android", "host_cpu:native"} <= names
    assert {"mobile_gpu:mali", "mobile_gpu:adreno-android", "mobile_gpu:generic_opencl"} <= names
    assert {target["name"] for target in listed["npu_targets"]} > {"npu:ethos-u55-128"}
    assert listed.keys() == {"targets", "npu_targets"}


def test_doctor_finds_nothing_missing(emulator_kit: object) -> None:
    done = mbv3c("doctor", "--json")
    assert done.returncode == 0
    assert document(done)["healthy"] is True


def test_doctor_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    done = mbv3c("doctor", MBV3C_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "mbv3c doctor --fetch" in done.stdout


def test_doctor_names_what_only_some_targets_need(emulator_kit: object) -> None:
    done = mbv3c("doctor")
    assert done.returncode == 0
    assert "absent   npu tools" in done.stdout
    assert "pip install 'mbv3c[npu]'" in done.stdout


def test_force_deletes_nothing_but_bundles(small_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    arguments = ("compile", small_file, "--target", "host_cpu", "--force")
    done = mbv3c(*arguments, "-o", tmp_path / "thesis")
    assert done.returncode == 2
    assert "--force does not delete it" in done.stderr
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu"])
def test_segmentation_compiles_and_verifies(
    emulator_kit: object, target: str, tmp_path: Path
) -> None:
    options = ("--variant", "small", "--head", "lraspp", "--resolution", "96")
    done = mbv3c("compile", *options, "--target", target, "-o", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["outputs"][0]["shape"] == [1, 21, 96, 96]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_saved_weights_build_the_same_network_again(suffix: str, tmp_path: Path) -> None:
    first, second, weights = tmp_path / "1.onnx", tmp_path / "2.onnx", tmp_path / f"w{suffix}"
    done = mbv3c("build", *MODEL, "--seed", 7, "-o", first, "--save-weights", weights)
    assert done.returncode == 0, done.stderr
    done = mbv3c("build", *MODEL, "--weights", weights, "-o", second)
    assert done.returncode == 0, done.stderr
    graphs = [onnx.load(path).graph for path in (first, second)]
    assert graphs[0] == graphs[1]


def test_weights_of_another_network_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    weights = tmp_path / "w.npz"
    built = mbv3c("build", *MODEL, "-o", tmp_path / "a.onnx", "--save-weights", weights)
    assert built.returncode == 0, built.stderr
    other = ("--variant", "small", "--classes", "11", "--resolution", "96")
    done = mbv3c("build", *other, "--weights", weights, "-o", tmp_path / "b.onnx")
    assert done.returncode == 1
    assert (
        "classifier.3.weight has the shape (10, 1024), the model needs (11, 1024)" in done.stderr
    )
    assert "classifier.3.bias has the shape (10,), the model needs (11,)" in done.stderr
    assert not (tmp_path / "b.onnx").exists()


def test_seed_and_weights_exclude_each_other(tmp_path: Path) -> None:
    done = mbv3c("build", "--seed", 1, "--weights", "w.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert "--seed and --weights exclude each other" in done.stderr


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "two.onnx"
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] map, float[1, 3] scores)
        { map = Relu(x) p = GlobalAveragePool(map) scores = Flatten(p) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu"])
def test_a_model_of_two_outputs_goes_all_the_way(
    emulator_kit: object, two_outputs: Path, target: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    done = mbv3c("compile", two_outputs, "--target", target, "-o", bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    assert document(done)["parity"]["worst_output"] in ("map", "scores")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["outputs"] == [
        {"name": "map", "shape": [1, 3, 8, 8], "dtype": "float32"},
        {"name": "scores", "shape": [1, 3], "dtype": "float32"},
    ]
    assert len((bundle / "golden" / "tolerance.txt").read_text().split()) == 2

    arguments = ("run", bundle, "--input", bundle / "golden" / "input.npy", "--json", "-o")
    done = mbv3c(*arguments, tmp_path / "y.npy")
    assert done.returncode == 2
    assert "several arrays (map, scores)" in done.stderr
    assert not (tmp_path / "y.npy").exists()
    done = mbv3c(*arguments, tmp_path / "y.npz")
    assert document(done)["shape"] is None
    assert document(done)["arrays"][1] == {"name": "scores", "shape": [1, 3]}
    ran = np.load(tmp_path / "y.npz")
    for name, golden in (("map", "output.npy"), ("scores", "output.1.npy")):
        wanted = np.load(bundle / "golden" / golden)
        np.testing.assert_allclose(ran[name], wanted, rtol=0, atol=1e-5 * np.ptp(wanted))


def test_an_npz_takes_a_single_output_by_its_name(host_bundle: Path, tmp_path: Path) -> None:
    source = host_bundle / "golden" / "input.npy"
    done = mbv3c("run", host_bundle, "--input", source, "-o", tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npz")["logits"].shape == (1, 10)


DETECTOR = ("--head", "ssdlite", "--variant", "small", "--width", "0.35", "--classes", "3")


@pytest.fixture(scope="module")
def detector_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "host"
    done = mbv3c("compile", *DETECTOR, "--target", "host_cpu", "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["passed"] is True
    return path


def test_a_detector_compiles_for_arm_and_verifies_emulated(
    emulator_kit: object, tmp_path: Path
) -> None:
    # Minimalistic: half as many kernels to compile, and the same head and decoding of boxes.
    options = (*DETECTOR, "--minimalistic", "--target", "arm_cpu", "-o", tmp_path / "b")
    done = mbv3c("compile", *options, "--json")
    assert done.returncode == 0, done.stderr
    parity = document(done)["parity"]
    assert parity["passed"] is True
    assert parity["ran_on"] == "emulated cortex-a76"
    assert parity["top1_agreement"] == 1.0


def test_a_detector_runs_to_detections(detector_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", detector_bundle, "--input", detector_bundle / "golden" / "input.npy")
    limits = ("--score-threshold", "0.5", "--nms-threshold", "0.3", "--detections", "7")
    done = mbv3c(*arguments, "-o", tmp_path / "y.npz", *limits, "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["arrays"] == [
        {"name": "boxes", "shape": [7, 4]},
        {"name": "scores", "shape": [7]},
        {"name": "labels", "shape": [7]},
        {"name": "images", "shape": [7]},
    ]
    found = np.load(tmp_path / "y.npz")
    assert found["scores"].min() > 0.5
    assert (np.diff(found["scores"]) <= 0).all()
    assert set(found["labels"]) <= {1, 2}
    assert found["boxes"].min() >= 0
    assert found["boxes"].max() <= 320


def test_a_detector_runs_to_its_raw_outputs(detector_bundle: Path, tmp_path: Path) -> None:
    golden = detector_bundle / "golden"
    arguments = ("run", detector_bundle, "--input", golden / "input.npy", "--raw", "-o")
    done = mbv3c(*arguments, tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    assert "boxes 1x3234x4, scores 1x3234x3" in done.stdout
    raw = np.load(tmp_path / "y.npz")
    for name, file in (("boxes", "output.npy"), ("scores", "output.1.npy")):
        wanted = np.load(golden / file)
        assert np.abs(raw[name] - wanted).max() <= 2e-5 * np.ptp(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "y.npy"), "several arrays (boxes, scores, labels, images) and y.npy is no .npz"),
        (("-o", "y.npz", "--raw", "--detections", "3"), "--raw asks for its outputs as they are"),
        (("-o", "y.npz", "--nms-threshold", "2"), "nms-threshold must be from 0 to 1, got 2"),
    ],
)
def test_wrong_usage_of_a_detector(
    detector_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    source = detector_bundle / "golden" / "input.npy"
    done = mbv3c("run", detector_bundle, "--input", source, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_thresholds_are_for_detectors(host_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", host_bundle, "--input", host_bundle / "golden" / "input.npy")
    done = mbv3c(*arguments, "-o", tmp_path / "y.npy", "--score-threshold", "0.5")
    assert done.returncode == 2
    assert "this bundle's model is no detector" in done.stderr
