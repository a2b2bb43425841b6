"""The table of targets with a GPU, and the ways to one that are closed."""

import pytest

from mbv3c.errors import UsageError
from mbv3c.targets import find_target
from mbv3c.targets.library.target import NATIVE
from mbv3c.targets.opencl.devices import CLOSED, GPU_TARGETS, GpuTarget
from mbv3c.targets.opencl.gpus import GPUS


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_every_target_is_complete(target: GpuTarget) -> None:
    assert target.cores >= 1
    assert target.example
    assert target.triple.split("-")[0] == target.arch
    assert (target.cpu == NATIVE) == (target.arch == NATIVE) == (target.triple == NATIVE)
    assert target.device.removesuffix("-android") == target.gpu
    assert target.device.endswith("-android") == target.triple.endswith("-android")
    assert target.family == "mobile_gpu"


def test_every_gpu_is_a_targets() -> None:
    assert {target.gpu for target in GPU_TARGETS} == set(GPUS)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("vulkan", "no code generator for Vulkan"),
        ("adreno-texture", "fails on depthwise convolutions"),
    ],
)
def test_a_closed_way_says_why_and_what_is_open(device: str, reason: str) -> None:
    assert device in CLOSED
    with pytest.raises(UsageError, match=reason) as caught:
        find_target(f"mobile_gpu:{device}")
    message = str(caught.value)
    assert message.startswith(f"there is no mobile_gpu:{device}: ")
    assert "known: mali, mali-android" in message


def test_every_closed_way_is_tested() -> None:
    assert set(CLOSED) == {"vulkan", "adreno-texture"}
    assert not set(CLOSED) & {target.device for target in GPU_TARGETS}
