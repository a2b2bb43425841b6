"""The table of GPUs."""

import pytest

from mbv3c.targets.opencl.gpus import GPUS


@pytest.mark.parametrize("device", GPUS)
def test_every_gpu_is_complete(device: str) -> None:
    row = GPUS[device]
    assert row.stands_for
    gpu = row.gpu
    assert max(gpu.group_sides) <= gpu.group_items
    assert gpu.warp <= gpu.group_items
    assert gpu.items_per_core % gpu.warp == 0
    assert gpu.full_registers <= gpu.registers
    assert min(gpu.cores, gpu.madds, gpu.line, gpu.memory, gpu.launch) > 0
