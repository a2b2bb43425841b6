"""Networks whose dense layers have weights in bf16 or int8: kernels, bundles, refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.errors import ParityError, UsageError
from mbv3c.graphs.narrow import AS_BF16, AS_INT8, STORED, narrowed
from mbv3c.job import Job
from mbv3c.job_spec import JobSpec
from mbv3c.lowering.plan import Pointwise
from mbv3c.lowering.schedules.emit import RELU
from mbv3c.manifest import MANIFEST
from mbv3c.parity.stored import MOST
from mbv3c.pipeline import climb_bundle, compile_model, verify_bundle
from mbv3c.targets.cpu.building import lower
from mbv3c.targets.cpu.schedules.stored_pointwise import StoredPointwise
from mbv3c.targets.library.manifest import LibraryManifest
from mbv3c.tuning.choices import likeness
from mbv3c.tuning.database import key_of, tasks_of, weight_shapes
from tests.command_line import document, mbv3c
from tests.onnx_text import graph, random
from tests.targets.cpu.networks import AVX2, HOST_TARGET, NEON, compare

# A 3x3 stem, a squeeze-and-excitation branch, and a classifier of two layers.
NETWORK = """
    g (float[1, 3, 8, 8] x) => (float[1, 11] logits) {
      stem = Conv<pads = [1, 1, 1, 1]>(x, w0) map = HardSwish(stem)
      pooled = GlobalAveragePool(map) s = Conv(pooled, w1, b1) r = Relu(s)
      e = Conv(r, w2, b2) g = HardSigmoid<alpha = 0.1666667, beta = 0.5>(e) scaled = Mul(g, map)
      mean = GlobalAveragePool(scaled) flat = Flatten(mean)
      hidden = Gemm<transB = 1>(flat, w3, b3) active = HardSwish(hidden)
      logits = Gemm<transB = 1>(active, w4, b4)
    }"""


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return graph(
        NETWORK,
        w0=random(24, 3, 3, 3),
        w1=random(10, 24, 1, 1, seed=1),
        b1=random(10, seed=2),
        w2=random(24, 10, 1, 1, seed=3),
        b2=random(24, seed=4),
        w3=random(37, 24, seed=5),
        b3=random(37, seed=6),
        w4=random(11, 37, seed=7),
        b4=random(11, seed=8),
    )


def spec(stored: str, target: str = "host_cpu", precision: str | None = None) -> JobSpec:
    return JobSpec(target, precision, options={"dense_weights": stored})


@pytest.mark.parametrize("machine", [NEON, AVX2], ids=["neon", "avx2"])
@pytest.mark.parametrize("stored", STORED)
def test_kernels_compute_with_what_is_stored(
    network: onnx.ModelProto, machine: object, stored: str
) -> None:
    rounded = narrowed(network, stored)
    lowered = lower(rounded, machine, Job(HOST_TARGET, dense_weights=stored))
    compare(lowered, rounded)
    steps = {step.kind: step for step in lowered.plan.steps}
    assert [step.kind for step in lowered.plan.steps].count("stored_pointwise") == 2
    assert "stored_squeeze_excite" in steps
    dtypes = {str(array.dtype) for array in steps["stored_pointwise"].constants.values()}
    assert ({"uint16"} if stored == AS_BF16 else {"int8"}) < dtypes


@pytest.mark.parametrize("target", ["host_cpu", "arm_cpu"])
@pytest.mark.parametrize("stored", STORED)
def test_a_bundle_is_held_to_the_model_as_given(
    network: onnx.ModelProto, stored: str, target: str, tmp_path: Path, emulator_kit: object
) -> None:
    compiled = compile_model(network, spec(stored, target).job(), tmp_path / "b")
    manifest = compiled.bundle.manifest
    assert isinstance(manifest, LibraryManifest)
    assert manifest.dense_weights == stored
    parity = manifest.parity
    assert parity is not None
    found = parity["dense_weights"]
    assert (found["stored"], found["most"]) == (stored, MOST[stored])
    # The verdict says the error that storing makes, and hardly allows more.
    assert 1e-4 < found["moved"] < MOST[stored]
    assert abs(parity["max_error_of_range"] - found["moved"]) < 2e-5
    assert parity["tolerance"] < found["moved"] + 2e-4
    assert parity["kernels_alone"]["max_error_of_range"] < 1e-5
    assert verify_bundle(tmp_path / "b").document["passed"]


def test_the_ladder_has_a_stage_for_it(network: onnx.ModelProto, tmp_path: Path) -> None:
    compile_model(network, spec(AS_INT8).job(), tmp_path / "b", verify=False)
    ladder = climb_bundle(tmp_path / "b")
    assert ladder.passed
    assert "dense weights in int8" in [row.stage for row in ladder.rows]


def test_a_network_that_it_breaks_is_refused(network: onnx.ModelProto, tmp_path: Path) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(network)
    for tensor in broken.graph.initializer:
        if tensor.name == "w4":  # one weight beside which int8 loses all others
            array = random(11, 37, seed=7)
            array[:, 0] = 1e5
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w4"))
        if tensor.name == "w3":  # and which is multiplied by nothing
            rows = random(37, 24, seed=5)
            rows[0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(rows, "w3"))
        if tensor.name == "b3":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(37, np.float32), "b3"))
    with pytest.raises(ParityError, match=r"storing dense weights in int8 makes .* by itself"):
        compile_model(broken, spec(AS_INT8).job(), tmp_path / "b")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("npu", "--dense-weights is for fp32 on CPUs; npu:ethos-u55-128 stores .*: leave it out"),
        ("mcu", "--dense-weights is for fp32 on CPUs; .* stores all weights in int8: leave it"),
        ("mobile_gpu", "--dense-weights is for CPUs; on mobile_gpu:.* --precision fp16 stores"),
    ],
)
def test_other_targets_refuse(target: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spec(AS_BF16, target).job()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_refuse(precision: str) -> None:
    said = f"--dense-weights is for --precision fp32, and {precision} .*: leave one of the two out"
    with pytest.raises(UsageError, match=said):
        spec(AS_BF16, "arm_cpu", precision).job()


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown --dense-weights 'bf61'.*bf16"):
        spec("bf61").job()


def test_what_was_measured_of_fp32_says_nothing_of_it(network: onnx.ModelProto) -> None:
    plain = Pointwise(1, 24, 37, RELU)
    kinds = [
        key_of("pointwise", plain),
        *(key_of("stored_pointwise", StoredPointwise(**vars(plain), stored=s)) for s in STORED),
    ]
    assert len({likeness(key).structure for key in kinds}) == 3
    lowered = lower(narrowed(network, AS_INT8), NEON, Job(HOST_TARGET, dense_weights=AS_INT8))
    tasks = {task.kind: task for task in tasks_of([lowered.plan])}
    assert weight_shapes(tasks["stored_squeeze_excite"])[0] == (10, 24)
    assert weight_shapes(tasks["stored_pointwise"])[0] == (11, 37)


def test_nothing_changes_without_it(network: onnx.ModelProto) -> None:
    job = JobSpec("host_cpu").job()
    assert job.dense_weights == ""
    lowered = lower(network, AVX2, replace(job, target=HOST_TARGET))
    assert not any(step.kind.startswith("stored") for step in lowered.plan.steps)


def test_as_a_user_runs_it(network: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(network, tmp_path / "m.onnx")
    bundle = tmp_path / "b"
    done = mbv3c(
        "compile", tmp_path / "m.onnx", "--target", "host_cpu", "--dense-weights", "int8",
        "-o", bundle, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert document(done)["parity"]["dense_weights"]["stored"] == "int8"
    assert json.loads((bundle / MANIFEST).read_text())["dense_weights"] == "int8"
    said = mbv3c("verify", bundle)
    assert said.returncode == 0, said.stderr
    assert "storing dense weights in int8 makes" in said.stdout
