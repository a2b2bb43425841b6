"""docs/mobile-gpu.md says of every GPU what the table says."""

from pathlib import Path

import pytest

from mbv3c.targets.opencl.devices import CLOSED
from mbv3c.targets.opencl.gpus import GPUS

PAGE = (Path(__file__).parents[3] / "docs" / "mobile-gpu.md").read_text()


@pytest.mark.parametrize("device", GPUS)
def test_limits_are_those_of_the_table(device: str) -> None:
    gpu = GPUS[device].gpu
    sides = ", ".join(map(str, gpu.group_sides))
    local = f"{gpu.local_bytes >> 10} KiB" if gpu.local_bytes else "none"
    limits = PAGE.split("\n## Limits\n")[1].split("\n## ")[0]
    (row,) = [line for line in limits.splitlines() if line.startswith(f"| `{device}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == [str(gpu.group_items), sides, local]
    assert (cells[4] == str(gpu.registers)) == bool(gpu.registers)
    assert cells[5] == str(gpu.warp)


def test_closed_ways_are_listed() -> None:
    for device in CLOSED:
        assert f"| `mobile_gpu:{device}` |" in PAGE
