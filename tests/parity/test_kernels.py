"""Every kernel by itself: a wrong one is named, however little it moves the outputs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.bundle import LIBRARY
from mbv3c.errors import Mbv3cError, ParityError
from mbv3c.execution.host import HostRunner
from mbv3c.execution.runners import KernelCall, KernelRunner
from mbv3c.job import Job
from mbv3c.lowering.describe import kernels_of
from mbv3c.parity.compare import Parity, compare
from mbv3c.parity.kernel_verdict import KernelsParity
from mbv3c.parity.kernels import check_kernels
from mbv3c.parity.reference import ReferenceOutput
from mbv3c.parity.tolerance import TOLERANCES
from mbv3c.pipeline import compile_model
from mbv3c.precision import FP16, FP32, INT8
from mbv3c.targets import backend_for, backend_of, find_target, open_bundle
from mbv3c.targets.cpu import select_integers
from mbv3c.targets.cpu.schedules.integer.arithmetic import has_dot
from mbv3c.targets.library.building import build_library
from tests.quantized_networks import HOST, HOST_TARGET, inputs_of, network, quantized, random

TARGETS = ("host_cpu", "arm_cpu:cortex-a76")
PLANTED = "again"  # a 1x1 convolution in the middle, with a ReLU behind it


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


def quiet(_: str) -> None:
    pass


def plant(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Multiply the factor with which one layer's sums become int8."""
    rounding_of = select_integers.rounding_of

    def wrong(node: onnx.NodeProto, *rest: Any, **options: Any) -> Any:
        *others, scale = rounding_of(node, *rest, **options)
        planted = (scale * np.float32(factor)).astype(scale.dtype)
        return *others, planted if node.name == PLANTED else scale

    monkeypatch.setattr(select_integers, "rounding_of", wrong)


def checked(model: onnx.ModelProto, folder: Path) -> KernelsParity:
    job = Job(HOST_TARGET, INT8)
    built = build_library(backend_of(HOST_TARGET), model, job, folder / LIBRARY)
    kernels = kernels_of(built.lowered)
    return check_kernels(model, kernels, inputs_of(model)[0], HostRunner(), folder)


@pytest.mark.parametrize("target", TARGETS)
def test_verify_names_a_layer_with_a_wrong_shift(
    target: str,
    model: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    emulator_kit: object,
) -> None:
    job, path = Job(replace(find_target(target), cores=1), INT8), tmp_path / "bundle"
    with monkeypatch.context() as planted:
        plant(planted, 0.5)
        compile_model(model, job, path, verify=False)
        named = rf"\n  integer_pointwise_\d+ \({PLANTED}, again_act\): "
        with pytest.raises(ParityError, match=named):
            compile_model(model, job, tmp_path / "again")
    bundle = open_bundle(path)
    parity = backend_for(bundle).verify(bundle, quiet)
    assert isinstance(parity, Parity)
    assert not parity.passed
    assert parity.kernels is not None
    missed, *drawn = [one for one in parity.kernels.kernels if not one.passed]
    assert all(PLANTED in one.nodes for one in (missed, *drawn))
    assert missed.steps is not None
    assert missed.steps > 1
    assert PLANTED in parity.to_json()["kernels_alone"]["missed"][0]


def test_less_than_a_step_is_seen(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, 1.003)
    found = checked(model, tmp_path)
    missed, *drawn = [one for one in found.kernels if not one.passed]
    assert all(PLANTED in one.nodes for one in (missed, *drawn))
    assert missed.steps == missed.allowed_steps == 1
    assert missed.wrong > 0


def test_every_kernel_is_right_by_itself(model: onnx.ModelProto, tmp_path: Path) -> None:
    found = checked(model, tmp_path)
    assert found.passed
    assert found.to_json()["steps"] <= max(one.allowed_steps or 0 for one in found.kernels)
    assert 0.9 * found.channels < found.alive <= found.channels
    # Without dot products the stem is computed in fp32, and its sums are rounded apart.
    stem = {"stem"} if has_dot(HOST) else set()
    assert stem | {"deep", "pool", "gate", "residual", "head"} <= {
        node for one in found.kernels for node in one.nodes
    }
    defined = [one for one in found.kernels if one.kernel.startswith(("quantize", "dequantize"))]
    assert len(defined) == (2 if has_dot(HOST) else 4)
    assert not any(one.differing for one in defined)


def test_what_is_computed_in_fp32_between_integers(tmp_path: Path) -> None:
    model = quantized(
        """g (float[1, 4, 9, 9] x) => (float[1, 4, 9, 9] y)
        {
            [three] t = Conv <pads = [1, 1, 1, 1], group = 2> (x, w)
            [sigmoid] s = Sigmoid(t)
            [one] y = Conv(s, v)
        }""",
        w=random(4, 2, 3, 3),
        v=random(4, 4, 1, 1, seed=1),
    )
    found = checked(model, tmp_path)
    assert found.passed
    assert {one.tensor.removesuffix("_DequantizeLinear_Output") for one in found.kernels} >= {
        "t",
        "s",
        "y",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_that_the_library_has_not(
    target: str, model: onnx.ModelProto, tmp_path: Path, emulator_kit: object
) -> None:
    goal = replace(find_target(target), cores=1)
    backend = backend_of(goal)
    build_library(backend, model, Job(goal, INT8), tmp_path / LIBRARY)
    runner = backend.runner_for(goal, INT8)
    assert isinstance(runner, KernelRunner)
    with pytest.raises(Mbv3cError, match="other kernels than its manifest says"):
        runner.run_kernels(tmp_path, inputs_of(model)[0], [KernelCall("pointwise_99")])
    with pytest.raises(Mbv3cError):
        short = KernelCall("quantize_1", {0: np.zeros(3, np.float32)})
        runner.run_kernels(tmp_path, inputs_of(model)[0], [short])


def gated(sign: float) -> onnx.ModelProto:
    """Return a gate that is at 1 on ordinary inputs, whatever the sign of its weights."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y)
        {
            [three] a = Conv(x, w)
            [pool] p = GlobalAveragePool(a)
            [gate] e = Conv(p, v, b)
            [sigmoid] s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (e)
            [scale] y = Mul(a, s)
        }"""
    )
    stored = {
        "w": random(8, 8, 1, 1) / 8,
        "v": sign * random(8, 8, 1, 1, seed=1),
        "b": np.full(8, 4, np.float32),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    return model


def test_a_saturated_gate_is_checked_where_it_is_not_flat(tmp_path: Path) -> None:
    """The library has the other sign, which shows in nothing but tensors that are drawn."""
    built = build_library(
        backend_of(HOST_TARGET), gated(-1.0), Job(HOST_TARGET, FP32), tmp_path / LIBRARY
    )
    kernels, x = kernels_of(built.lowered), inputs_of(gated(1.0))[0]
    right = check_kernels(gated(-1.0), kernels, x, HostRunner(), tmp_path)
    assert right.passed
    assert 0 < right.alive <= right.channels == 8
    assert right.to_json()["drawn"] > 0
    found = check_kernels(gated(1.0), kernels, x, HostRunner(), tmp_path)
    wrong = [one for one in found.kernels if not one.passed]
    assert wrong
    assert all(one.drawn and "gate" in one.nodes for one in wrong)
    assert "on drawn tensors" in found.missed[0]


def test_half_precision_is_held_to_rounded_tensors(tmp_path: Path, emulator_kit: object) -> None:
    """TVM's pooling gets fp32 of what is fp16, and Flatten, which moves nothing, has no kernel."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8, 6, 6] x) => (float[1, 2] y)
        {
            [conv] a = Conv(x, w)
            [pool] m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            [mean] p = GlobalAveragePool(m)
            [flat] f = Flatten(p)
            [two] y = Gemm(f, v, b)
        }"""
    )
    alike = random(8, 1) + random(8, 2, seed=1) / 1000  # so the range is that of rounded weights
    stored = {"w": random(8, 8, 1, 1), "v": alike, "b": np.zeros(2, np.float32)}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    arm = find_target("arm_cpu:cortex-a76")
    built = build_library(backend_of(arm), model, Job(arm, FP16), tmp_path / LIBRARY)
    runner = backend_of(arm).runner_for(arm, FP16)
    assert isinstance(runner, KernelRunner)
    kernels = kernels_of(built.lowered)
    assert all("flat" not in kernel.nodes for kernel in kernels)
    found = check_kernels(model, kernels, inputs_of(model)[0], runner, tmp_path)
    assert found.passed, found.missed
    widened = [one for one in found.kernels if one.kernel.startswith("transpose")]
    assert widened
    assert not any(one.differing for one in widened)


def test_integers_without_their_kernels_are_not_proven() -> None:
    y = np.array([[1.0, 2.0]], np.float32)
    theirs = [[ReferenceOutput("y", y, 0.0, None)]]
    parity = compare([[y]], theirs, TOLERANCES["int8"], ran_on="a board", exact_program=True)
    assert parity.passed
    known = replace(parity, not_checked="its server does not stop")
    assert known.passed
    assert "NOT CHECKED: each kernel by itself (its server" in known.lines()[0]
    unproven = replace(known, proven=False)
    assert not unproven.passed
    assert unproven.to_json()["unproven"] is True
    assert unproven.lines()[0].startswith("parity: NOT PROVEN on a board")
    assert [check.passed for check in unproven.checks()] == [True, False]
