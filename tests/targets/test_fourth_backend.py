"""A backend that is one module and one line in the registry goes the whole way."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c import inference, pipeline, targets
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job_spec import JobSpec
from tests.command_line import mbv3c
from tests.targets.reference_backend import PROGRAM

SPEC = ModelSpec(variant="small", width=0.35, resolution=96, classes=10)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.WINGS, "ort", "tests.targets.reference_backend")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    compiled = pipeline.compile_model(build_model(SPEC), JobSpec("ort").job(), tmp_path / "bundle")
    assert compiled.verdict is not None
    assert compiled.verdict.passed
    return compiled.bundle.path


def test_it_is_listed() -> None:
    listed = json.loads(mbv3c("targets", "--json").stdout)["targets"]
    assert {"name": "ort:cpu", "default": True} in listed
    assert "ort:cpu*" in mbv3c("targets").stdout


def test_it_compiles_verifies_and_runs(bundle: Path) -> None:
    opened = targets.open_bundle(bundle)
    assert (opened.manifest.target.name, opened.precision.name) == ("ort:cpu", "fp32")
    assert pipeline.verify_bundle(bundle).exit_code == 0
    ran = inference.run_bundle(bundle, np.zeros(opened.input_shape, np.float32))
    assert ran.arrays["logits"].shape == (1, 10)
    assert mbv3c("verify", bundle).stdout.startswith("parity: passed on onnxruntime")
    assert mbv3c("inspect", bundle).stdout.startswith(f"{bundle}: mobilenet_v3_small")


def test_it_climbs_the_ladder(bundle: Path) -> None:
    ladder = pipeline.climb_bundle(bundle)
    assert ladder.passed
    assert ladder.rows[-1].stage == "program"


def test_a_fault_of_its_program_is_seen(bundle: Path) -> None:
    model = onnx.load(bundle / PROGRAM)
    weights = next(one for one in model.graph.initializer if len(one.dims) == 4)
    broken = numpy_helper.to_array(weights) * np.float32(1.05)
    weights.CopyFrom(numpy_helper.from_array(broken, weights.name))
    onnx.save(model, bundle / PROGRAM)
    opened = targets.open_bundle
    with pytest.raises(Exception, match=r"program.onnx was changed after compile"):
        opened(bundle)


def test_what_it_does_not_do_is_said() -> None:
    refused = {
        ("compile", "--sram", 1): "--sram is for --target npu and mcu only",
        ("compile", "--precision", "int8"): "ort:cpu does not compute in int8",
        ("tune",): "there is nothing to tune for ort:cpu",
    }
    for (command, *options), message in refused.items():
        assert message in mbv3c(command, "--target", "ort", *options).stderr
