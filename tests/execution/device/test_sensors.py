"""Sensors as Linux's kernel shows them, in folders that stand for a board's."""

from pathlib import Path

import pytest

from mbv3c.execution.device.sensors import Counter, counters, read_sensors


def _write(root: Path, **files: object) -> None:
    for name, text in files.items():
        path = root / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def _chip(root: Path, number: int, **files: object) -> None:
    _write(root, **{f"class__hwmon__hwmon{number}__{name}": text for name, text in files.items()})


def test_a_board_without_sensors_tells_nothing(tmp_path: Path) -> None:
    reading = read_sensors([0], tmp_path)
    assert (reading.celsius, reading.mhz, reading.throttled) == (None, None, None)
    assert reading.watts == counters(tmp_path) == {}


def test_the_clock_is_that_of_the_slowest_processor_asked_for(tmp_path: Path) -> None:
    for cpu, kilohertz in enumerate((1800000, 1500000, 600000)):
        _write(
            tmp_path, **{f"devices__system__cpu__cpu{cpu}__cpufreq__scaling_cur_freq": kilohertz}
        )
    assert read_sensors([0, 1], tmp_path).mhz == 1500
    assert read_sensors([0], tmp_path).mhz == 1800
    assert read_sensors([3], tmp_path).mhz is None


def test_power_sensors_are_named(tmp_path: Path) -> None:
    _chip(tmp_path, 0, name="ina226", power1_input=4200000, power1_label="vdd_5v")
    _chip(tmp_path, 1, name="cpu_thermal", temp1_input=51000)
    # An INA3221 has voltages and currents, and no power.
    _chip(tmp_path, 2, name="ina3221", in1_input=5000, curr1_input=800, in1_label="VDD_IN")
    _chip(tmp_path, 3, name="broken", power1_input="none")
    assert read_sensors([0], tmp_path).watts == {
        "vdd_5v (ina226, hwmon0)": pytest.approx(4.2),
        "VDD_IN (ina3221, hwmon2)": pytest.approx(4.0),
    }


def test_counters_of_energy_begin_again(tmp_path: Path) -> None:
    zone = {"name": "package-0", "energy_uj": 9500000, "max_energy_range_uj": 10000000}
    _write(
        tmp_path, **{f"class__powercap__intel-rapl:0__{key}": text for key, text in zone.items()}
    )
    _chip(tmp_path, 0, name="scmi_sensors", energy1_input=250000)
    before = counters(tmp_path)
    assert before.keys() == {"package-0 (intel-rapl:0)", "channel 1 (scmi_sensors, hwmon0)"}
    _write(tmp_path, **{"class__powercap__intel-rapl:0__energy_uj": 500000})
    after = counters(tmp_path)["package-0 (intel-rapl:0)"]
    assert after.since(before["package-0 (intel-rapl:0)"]) == pytest.approx(1.0)
    assert Counter(0.5).since(Counter(9.5)) is None
    assert Counter(9.5).since(Counter(0.5)) == 9.0


def test_what_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    """Linux gives the counters of a processor to root alone; here a folder stands for such one."""
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
    assert counters(tmp_path) == {}
