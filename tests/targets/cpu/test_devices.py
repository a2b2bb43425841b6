"""The table of CPUs."""

import pytest

from mbv3c.targets.cpu.devices import CPUS, CpuTarget
from mbv3c.targets.cpu.isa import ISAS
from mbv3c.targets.library.target import NATIVE


@pytest.mark.parametrize("target", CPUS, ids=lambda target: target.name)
def test_every_target_is_complete(target: CpuTarget) -> None:
    assert target.cores >= 1
    assert target.example
    assert target.triple.split("-")[0] == target.arch
    assert (target.cpu == NATIVE) == (target.arch == NATIVE) == (target.triple == NATIVE)
    if target.isa:  # LLVM's name is that of a level, which nobody says
        assert target.isa in ISAS
    else:
        assert target.device.removesuffix("-android") == target.cpu
    assert target.device.endswith("-android") == target.triple.endswith("-android")
    assert target.family in ("arm_cpu", "host_cpu")
