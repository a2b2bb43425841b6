import os
import platform
from dataclasses import replace
from pathlib import Path

from mbv3c.execution.device.machine import machine_from_json, read_machine
from mbv3c.execution.opencl.runtime import DeviceInfo

BIG_LITTLE = "".join(
    f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for core, part in enumerate(["0xd05"] * 4 + ["0xd0b"] * 4)
)


def _board(root: Path, cpuinfo: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(cpuinfo)
    for core, governor in enumerate(("schedutil", "schedutil", "performance")):
        folder = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    for zone, text in enumerate(("41500\n", "-3000\n", "broken\n", "")):
        folder = root / f"sys/class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "temp").write_text(text)
    return root


def test_reads_a_board(tmp_path: Path) -> None:
    machine = read_machine(_board(tmp_path, BIG_LITTLE))
    assert machine.cpu == "cortex-a55 and cortex-a76"
    assert machine.governors == ("schedutil", "performance")
    assert machine.temperature == 41.5
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.architecture == platform.machine()
    assert "cortex-a55 and cortex-a76" in machine.sentence
    assert ", schedutil, performance, 42 °C" in machine.sentence


def test_names_of_other_makers_are_not_guessed(tmp_path: Path) -> None:
    other = BIG_LITTLE.replace("0x41", "0x51")
    assert read_machine(_board(tmp_path, other)).cpu is None


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.cpu, machine.governors, machine.temperature) == (None, (), None)
    assert "unknown processor" in machine.sentence


def test_travels_as_json(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine_from_json(machine.to_json()) == machine
    gpu = DeviceInfo("ARM Platform", "Mali-G610", "OpenCL 3.0", "g13p0", True, True)
    board = replace(machine, opencl=gpu, governors=("performance",))
    assert machine_from_json(board.to_json()) == board
    assert board.sentence.endswith("performance, OpenCL: Mali-G610")
