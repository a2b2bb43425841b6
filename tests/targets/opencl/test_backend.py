"""In which precisions a GPU computes."""

from dataclasses import replace

import pytest

from mbv3c.errors import UsageError
from mbv3c.precision import FP16, FP32, INT8
from mbv3c.targets import find_target
from mbv3c.targets.opencl.backend import BACKEND
from mbv3c.targets.opencl.devices import GPU_TARGETS, GpuTarget
from mbv3c.targets.opencl.gpus import GPUS


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_gpus_compute_in_fp32_and_fp16(target: GpuTarget) -> None:
    BACKEND.check_precision(target, FP32)
    BACKEND.check_precision(target, FP16)
    with pytest.raises(UsageError, match=f"{target.name} does not .* int8; choose .* or fp16; in"):
        BACKEND.check_precision(target, INT8)


def test_a_gpu_without_half_is_asked_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    row = GPUS["mali"]
    monkeypatch.setitem(GPUS, "mali", replace(row, gpu=replace(row.gpu, fp16=False)))
    with pytest.raises(UsageError, match="in fp16; choose --precision fp32; int8"):
        BACKEND.check_precision(find_target("mobile_gpu:mali"), FP16)
