"""`compile --input-shapes`: one bundle for several shapes, and all that is done with it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.commands.options import parse_shapes
from mbv3c.errors import UsageError
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.processes import finish
from mbv3c.parity.reference import run, session
from mbv3c.targets import open_bundle
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.report import all_kernel_lines
from tests.built_once import built_once
from tests.command_line import document, mbv3c

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] image) => (float[N, 10] logits) {
    a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(image, stem)
    b = HardSwish(a)
    c = Conv<pads = [1, 1, 1, 1], group = 16>(b, depthwise)
    d = Conv(c, expand)
    e = Relu(d)
    f = GlobalAveragePool(e)
    g = Flatten(f)
    h = Gemm<transB = 1>(g, hidden)
    i = Relu(h)
    logits = Gemm<transB = 1>(i, head)
}"""
SIZES = {
    "stem": (16, 3, 3, 3),
    "depthwise": (16, 1, 3, 3),
    "expand": (256, 16, 1, 1),
    "hidden": (1024, 256),
    "head": (10, 1024),
}
TWO = ("--input-shapes", "32x32 48x32")
SHAPES = ["1x3x32x32", "1x3x48x32", "2x3x32x32"]  # the two, and a batch
WEIGHT_BYTES = 4 * 256 * 1024  # of the largest layer


def network() -> onnx.ModelProto:
    """Return a classifier of images of any size, of which most bytes are in one layer."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(5)
    for name, shape in SIZES.items():
        fan_in = np.prod(shape[1:])
        weights = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        model.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), name))
    return model


def compiled(folder: Path, *options: str) -> Path:
    """Compile the network for these shapes; keep the document beside the bundle."""
    folder.mkdir(exist_ok=True)
    onnx.save(network(), folder / "network.onnx")
    done = mbv3c(
        *("compile", folder / "network.onnx", *options, "--tune-logs", "none"),
        *("-o", folder / "bundle", "--json"),
    )
    assert done.returncode == 0, done.stderr
    (folder / "compiled.json").write_text(done.stdout)
    return folder / "bundle"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ("--target", "host_cpu", *TWO, "--input-shapes", "2,3,32,32")
    make = lambda folder: compiled(folder, *options)  # noqa: E731
    return built_once(tmp_path_factory, "several shapes", make) / "bundle"


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory, emulator_kit: EmulatorKit) -> Path:
    options = ("--target", "arm_cpu", "--precision", "int8", *TWO)
    make = lambda folder: compiled(folder, *options)  # noqa: E731
    return built_once(tmp_path_factory, "several shapes in int8", make) / "bundle"


def test_every_shape_is_verified_and_weights_are_stored_once(host: Path) -> None:
    found = json.loads((host.parent / "compiled.json").read_text())
    assert [one["shape"] for one in found["parity"]["shapes"]] == SHAPES
    assert all(one["passed"] for one in found["parity"]["shapes"])
    first, *others = found["shapes"]
    assert first["own_weight_bytes"] == first["weight_bytes"] > WEIGHT_BYTES
    assert all(one["own_weight_bytes"] < WEIGHT_BYTES // 10 for one in others)
    assert WEIGHT_BYTES < (host / "model.so").stat().st_size < 1.5 * WEIGHT_BYTES
    lines = all_kernel_lines(manifest_of(open_bundle(host)))
    assert [line for line in lines if line.startswith("for inputs")] == [
        f"for inputs of {shape}:" for shape in SHAPES
    ]


def test_the_shape_of_the_input_says_which_program_runs(host: Path, tmp_path: Path) -> None:
    model = onnx.load(host / "model.onnx")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = "any"
    for shape in ((2, 3, 32, 32), (1, 3, 48, 32)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        np.save(tmp_path / "x.npy", x.astype(">f4"))  # of another machine
        done = mbv3c(
            "run", host, "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--force"
        )
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(
            np.load(tmp_path / "y.npy"), run(session(model), x)[0], atol=1e-4
        )
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 40, 40), np.float32))
    done = mbv3c("run", host, "--input", tmp_path / "x.npy", "-o", tmp_path / "z.npy")
    assert done.returncode == 2
    assert "float32 (1, 3, 40, 40)" in done.stderr
    assert ", ".join(SHAPES) in done.stderr


def test_verify_and_bench_go_through_all_shapes(host: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((3, 48, 32), np.float32))
    own = document(mbv3c("verify", host, "--inputs", tmp_path, "--json"))
    assert [one["shape"] for one in own["shapes"]] == [SHAPES[1]]
    (tmp_path / "x.npz").rename(tmp_path / "b.npz")
    np.savez(tmp_path / "a.npz", a=np.ones((3, 32, 32), np.float32))
    both = document(mbv3c("verify", host, "--inputs", tmp_path, "--json"))["own_inputs"]
    assert both["source"] == "; ".join(f"{shape}: 1 input of {tmp_path}" for shape in SHAPES)
    report = tmp_path / "report.json"
    found = document(mbv3c("verify", host, "--json", "--report", report))
    assert [one["shape"] for one in found["shapes"]] == SHAPES
    assert len(found["metrics"]) == 5 * len(SHAPES)
    assert len(json.loads(report.read_text())["errors"]) == 5 * len(SHAPES)
    timed = document(mbv3c("bench", host, "--runs", 3, "--json"))
    assert [one["shape"] for one in timed["shapes"]] == SHAPES
    assert [one["shape"] for one in document(mbv3c("inspect", host, "--json"))["shapes"]] == SHAPES


def test_a_board_checks_every_shape(arm: Path, emulator_kit: EmulatorKit, tmp_path: Path) -> None:
    command = emulator_kit.command("cortex-a76")
    checked = finish([*command, str(arm)], timeout=120)
    assert checked.returncode == 0, checked.last_lines()
    assert [line.split(":")[0] for line in checked.stdout.splitlines()] == SHAPES[:2]
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 40, 40), np.float32))
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    refused = finish([*command, str(arm), *files], timeout=120)
    assert refused.returncode == 1
    assert f"the bundle is compiled for {', '.join(SHAPES[:2])}" in refused.last_lines()


def test_kernels_of_every_shape_are_checked_alone_in_int8(arm: Path) -> None:
    found = json.loads((arm.parent / "compiled.json").read_text())
    shapes = found["parity"]["shapes"]
    assert [one["kernels_alone"]["passed"] for one in shapes] == [True, True]
    assert {path.name for path in arm.glob("quantized*.onnx")} == {
        *("quantized.onnx", "quantized.1.onnx")
    }


def test_a_gpu_takes_several_shapes(tmp_path: Path) -> None:
    """Of mali, whose host code is built again for every shape."""
    compiled(tmp_path, "--target", "mobile_gpu:mali", *TWO)


def test_shapes_as_they_are_written() -> None:
    assert parse_shapes(("32x32 1,3,48,48", "64x64")) == ([32, 32], [1, 3, 48, 48], [64, 64])
    named = ("a:1,3,8,8 b:1,4; a:1,3,16,16 b:1,4",)
    assert parse_shapes(named) == (
        {"a": [1, 3, 8, 8], "b": [1, 4]},
        {"a": [1, 3, 16, 16], "b": [1, 4]},
    )
    with pytest.raises(UsageError, match="is no shape"):
        parse_shapes(("32x32 large",))
    with pytest.raises(UsageError, match="--input-shapes is empty"):
        parse_shapes(("",))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--input-shapes", "32x32 1,3,32,32"), "has 1x3x32x32 twice"),
        (("--input-shapes", "32x32 48x48", "--batch", "2"), "leave --input-shape and --batch out"),
        (("--target", "npu", "--input-shapes", "32x32 48x48"), "takes inputs of one shape"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    onnx.save(network(), tmp_path / "network.onnx")
    target = () if "--target" in options else ("--target", "host_cpu")
    done = mbv3c("compile", tmp_path / "network.onnx", *target, *options, "-o", tmp_path / "b")
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
