"""Models that take frames by their own steps begin with the kernel of those given to others."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from mbv3c.job_spec import JobSpec
from mbv3c.prepare import prepare
from mbv3c.targets import backend_of
from tests.typed_models import uint8_frames, uint8_planes


@pytest.mark.parametrize(
    ("build", "precision", "kinds"),
    [
        (uint8_frames, "fp32", ["frame", "convolution", "depthwise"]),
        (uint8_planes, "int8", ["frame", "integer_convolution", "integer_depthwise"]),
    ],
)
def test_one_kernel_reads_the_frame(
    build: Callable[[], onnx.ModelProto], precision: str, kinds: list[str]
) -> None:
    job = JobSpec("arm_cpu", precision, tune_logs=Path("none")).job()
    prepared = prepare(build(), job, lambda step: None)
    lowered = backend_of(job.target).lower(prepared, job, lambda step: None)
    assert [step.kind for step in lowered.plan.steps][:3] == kinds
