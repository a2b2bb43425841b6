import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(("arch", "foreign"), [("x86_64", 183), ("aarch64", 62), ("m68k", 62)])
def test_an_emulator_is_told_by_the_program_that_runs(
    arch: str, foreign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _board(tmp_path, BIG_LITTLE)
    monkeypatch.setattr(platform, "machine", lambda: arch)
    assert not read_machine(root).emulated
    program = root / "proc/thread-self/exe"
    program.parent.mkdir()
    for number, emulated in ((245 - foreign, False), (foreign, arch != "m68k"), (4242, False)):
        program.write_bytes(b"\x7fELF" + bytes(14) + number.to_bytes(2, "little"))
        assert read_machine(root).emulated is emulated
    program.write_bytes(b"\x7fELF" + bytes(14) + foreign.to_bytes(2, "little"))
    machine = read_machine(root)
    assert ("emulated" in machine.sentence) is ("emulated" in machine.doubts) is machine.emulated


def test_a_clock_that_is_held_down_is_seen(tmp_path: Path) -> None:
    root = _board(tmp_path, BIG_LITTLE)
    assert read_machine(root).throttled is None
    cooling = root / "sys/class/thermal/cooling_device0"
    cooling.mkdir()
    for kind, state, expected in (
        ("thermal-cpufreq-0", "0", False),
        ("thermal-cpufreq-0", "3", True),
        ("pwm-fan", "3", None),
        ("thermal-cpufreq-0", "broken", None),
    ):
        (cooling / "type").write_text(kind + "\n")
        (cooling / "cur_state").write_text(state + "\n")
        assert read_machine(root).throttled is expected
    firmware = root / "sys/devices/platform/soc/soc:firmware/get_throttled"
    firmware.parent.mkdir(parents=True)
    for text, expected in (("0", False), ("50000", False), ("50005", True), ("4", True)):
        firmware.write_text(text + "\n")  # the upper bits say what was, and not what is
        assert read_machine(root).throttled is expected
    assert "throttled" in read_machine(root).sentence


def test_what_makes_times_doubtful_is_said(tmp_path: Path) -> None:
    machine = read_machine(_board(tmp_path, BIG_LITTLE))
    assert list(machine.doubts) == ["governor"]
    assert "governed by schedutil: set `performance`" in machine.doubts["governor"]
    steady = replace(machine, governors=("performance",))
    assert steady.doubts == {}
    assert list(replace(steady, throttled=True, temperature=80.4).doubts) == ["throttled", "hot"]
    assert "(80 °C)" in replace(steady, temperature=80.4).doubts["hot"]


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


def test_times_belong_to_a_machine_and_to_how_its_clock_is_governed(tmp_path: Path) -> None:
    root = _board(tmp_path, BIG_LITTLE)
    nameless = read_machine(root)
    assert nameless.number == ""
    (root / "etc").mkdir()
    (root / "etc/machine-id").write_text("0123\n")
    by_system = read_machine(root)
    serial = root / "sys/firmware/devicetree/base/serial-number"
    serial.parent.mkdir(parents=True)
    serial.write_text("10000000abcd\0")
    by_maker = read_machine(root)
    found = {each.lasting(gpu=False) for each in (nameless, by_system, by_maker)}
    assert len(found) == 3
    assert by_maker.lasting(gpu=False).endswith(f"performance, number {by_maker.number}")
    assert "abcd" not in by_maker.number
    hot = replace(by_maker, temperature=90.0, throttled=True)
    assert hot.lasting(gpu=True) == by_maker.lasting(gpu=True)
    gpu = DeviceInfo("ARM Platform", "Mali-G610", "OpenCL 3.0", "g13p0", True, True)
    drivers = {replace(hot, opencl=replace(gpu, driver=name)) for name in ("g13p0", "g24p0")}
    assert len({each.lasting(gpu=True) for each in drivers}) == 2
    assert {each.lasting(gpu=False) for each in drivers} == {hot.lasting(gpu=False)}
