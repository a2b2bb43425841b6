"""What is made of a device's answers; tests/execution/device asks real ones."""

from dataclasses import replace
from typing import Any

import pytest

from mbv3c.commands.bench_device import device_lines
from mbv3c.errors import UsageError
from mbv3c.execution.timing.latency import Distribution, Ratio, distribution
from mbv3c.speed.on_device import (
    DeviceBenchRequest,
    Energy,
    OnDevice,
    Row,
    SideOnDevice,
    Sustained,
    Window,
    _energy,
    _row,
)

WATTS = {"vdd_5v (ina226, hwmon0)": 4.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pin": "huge"}, "--pin 'huge' names no processors: write big, little, or numbers"),
        ({"runs": 0}, "--runs 0 is not possible; choose at least 1"),
        ({"threads": 0}, "--threads 0 is not possible; choose at least 1"),
        ({"minutes": 0.0}, "--minutes 0 is not possible; choose more than 0"),
        ({"minutes": float("nan")}, "--minutes nan is not possible"),
        ({"against": "openvino"}, "a device is measured beside onnxruntime, or none"),
    ],
)
def test_what_no_device_can_measure_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DeviceBenchRequest(**given).check()


def _block(ms: list[float], **given: object) -> dict[str, object]:
    reading = {"celsius": None, "mhz": None, "throttled": None, "watts": {}}
    return {
        "ms": ms,
        "interruptions": 0,
        "seconds": 2.0,
        "readings": [reading],
        "joules": {},
    } | given


def test_energy_is_what_was_counted_over_the_inferences() -> None:
    window = {"runs": 100, "seconds": 2.0, "joules": {"package-0": 5.0}, "readings": []}
    assert _energy([window]) == (Energy("package-0", 50.0, 2.5),)
    # Of power its mean, times the seconds.
    readings = [{"watts": WATTS}, {"watts": {"vdd_5v (ina226, hwmon0)": 6.0}}]
    powered = window | {"joules": {}, "readings": readings}
    assert _energy([powered]) == (Energy("vdd_5v (ina226, hwmon0)", 100.0, 5.0),)
    assert _energy([]) == ()
    # A counter that was not read in every window tells nothing.
    assert _energy([window, window | {"joules": {}}]) == ()


def test_a_configuration_is_read() -> None:
    hot = {"celsius": 60.0, "mhz": 1500.0, "throttled": True, "watts": {}}
    cool = {"celsius": 50.0, "mhz": 1800.0, "throttled": False, "watts": {}}
    memory = {"before_bytes": 1 << 20, "peak_bytes": 3 << 20}
    ours = {
        "memory": memory,
        "blocks": [_block([1.0, 2.0], readings=[cool]), _block([3.0], readings=[hot])],
        "energy": [],
    }
    row = _row({"cluster": "big", "cpus": [4, 5], "sides": {"library": ours}})
    assert (row.threads, row.ours.spread.median_ms, row.ours.memory_bytes) == (2, 2.0, 2 << 20)
    assert (row.mhz, row.celsius, row.throttled) == ((1500.0, 1800.0), (50.0, 60.0), True)
    assert (row.theirs, row.ratio, row.undisturbed) == (None, None, True)
    busy = ours | {"blocks": [_block([1.0, 2.0], interruptions=1)]}
    row = _row({"cluster": "big", "cpus": [4], "sides": {"library": busy}})
    assert (row.undisturbed, row.celsius, row.mhz, row.throttled) == (False, None, None, None)


def test_how_times_are_spread() -> None:
    spread = distribution([float(each) for each in range(1, 101)])
    assert (spread.median_ms, spread.min_ms, spread.max_ms, spread.runs) == (50.5, 1.0, 100.0, 100)
    assert spread.p90_ms == pytest.approx(90.1)
    assert spread.p99_ms == pytest.approx(99.01)
    few = distribution([2.0] * 99)
    assert (few.p90_ms, few.p99_ms) == (2.0, None)
    assert distribution([2.0, 3.0]).p90_ms is None
    assert distribution([2.0]) == Distribution(2.0, None, None, 2.0, 2.0, 1)


def _measured() -> OnDevice:
    spread = Distribution(7.123, 7.201, 7.95, 7.1, 9.1, 200)
    ours = SideOnDevice(spread, 12 << 20, (Energy("vdd_5v (ina226, hwmon0)", 30.123, 4.2),))
    theirs = replace(ours, spread=replace(spread, median_ms=9.812), memory_bytes=48 << 20)
    one = Row(
        *("big", (4,), 1, ours, theirs, Ratio(0.726, (0.72, 0.73)), True),
        *((2400.0, 2400.0), (48.2, 53.1), False),
    )
    window = Window(20.0, spread, 71.0, 1800.0, True)
    long = Sustained(10.0, "big", 1, (window,), 7.1, 8.165, ())
    missing = ("clock: its system does not tell", "energy: " + "there is no sensor " * 4)
    return OnDevice("a board", None, (one,), long, {"onnxruntime": "1.32.0"}, missing)


def test_it_is_printed() -> None:
    lines = list(device_lines(_measured()))
    assert lines == [
        "a board",
        "processors   threads   median      p90      p99  slowest  onnxruntime  ratio",
        "big                1    7.123    7.201    7.950    9.100        9.812  0.726",
        "in ms, of 200 inferences each; a ratio below 1 is faster than onnxruntime 1.32.0",
        "memory       12.0 MiB for the library; onnxruntime 48.0 MiB for the model",
        "temperature  48 °C at first, 53 °C at most",
        "clock        2400 MHz",
        "energy       30.1 mJ an inference at 4.2 W, idle included",
        "             by vdd_5v (ina226, hwmon0)",
        "onnxruntime  30.1 mJ an inference at 4.2 W, idle included",
        "             by vdd_5v (ina226, hwmon0)",
        "for 10 min, big, 1 thread:",
        "  median 7.100 ms in the first quarter, 8.165 ms in the last (+15.0%)",
        "  p99 7.950 ms at worst, 71 °C at most, clock 1800 MHz at least, held down",
        "not told by the device:",
        "  clock: its system does not tell",
        "  energy: there is no sensor there is no sensor there is no sensor there is no",
        "    sensor",
    ]
    assert max(map(len, lines)) <= 80
