import platform
from pathlib import Path

import pytest

from mbv3c.errors import UsageError
from mbv3c.execution.device.clusters import (
    Cluster,
    Configuration,
    configurations,
    find_clusters,
    parse_cpus,
)
from mbv3c.speed.device_request import DeviceBenchRequest

BIG, LITTLE = Cluster("big", (4, 5, 6, 7)), Cluster("little", (0, 1, 2, 3))
PARTS = ("0xd05",) * 2 + ("0xd0b",) * 2


def _board(root: Path, file: str, values: dict[int, int]) -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(
        "".join(
            f"processor\t: {cpu}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
            for cpu, part in enumerate(PARTS)
        )
    )
    for cpu, value in values.items():
        path = root / f"sys/devices/system/cpu/cpu{cpu}/{file}"
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    return root


def test_clusters_are_told_apart_by_capacity(tmp_path: Path) -> None:
    root = _board(tmp_path, "cpu_capacity", {0: 400, 1: 400, 2: 1024, 3: 1024})
    big, little = find_clusters(range(4), root)
    assert (big.name, big.cpus, big.core, big.mhz) == ("big", (2, 3), "cortex-a76", None)
    assert (little.name, little.cpus, little.core) == ("little", (0, 1), "cortex-a55")
    # Of processors that may not be used nothing is said.
    assert [one.name for one in find_clusters([2, 3], root)] == ["all"]


def test_three_kinds(tmp_path: Path) -> None:
    root = _board(tmp_path, "cpu_capacity", {0: 250, 1: 250, 2: 800, 3: 1024})
    assert [(one.name, one.cpus) for one in find_clusters(range(4), root)] == [
        ("big", (3,)),
        ("middle", (2,)),
        ("little", (0, 1)),
    ]


def test_four_kinds_can_be_named(tmp_path: Path) -> None:
    """A phone has a fastest core, two clusters between, and little ones."""
    root = _board(tmp_path, "cpu_capacity", {0: 250, 1: 600, 2: 800, 3: 1024})
    clusters = find_clusters(range(4), root)
    assert [one.name for one in clusters] == ["big", "middle1", "middle2", "little"]
    for one in clusters:
        DeviceBenchRequest(pin=one.name).check()
        (found,) = configurations(clusters, 1, one.name, None)
        assert found.cpus == one.cpus


def test_without_capacity_clocks_tell_on_arm_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {0: 1800000, 1: 1800000, 2: 2400000, 3: 2400000}
    root = _board(tmp_path, "cpufreq/cpuinfo_max_freq", clocks)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert [(one.name, one.mhz) for one in find_clusters(range(4), root)] == [
        ("big", 2400),
        ("little", 1800),
    ]
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (all_of_them,) = find_clusters(range(4), root)
    assert (all_of_them.name, all_of_them.cpus, all_of_them.core) == ("all", (0, 1, 2, 3), None)


def test_threads_go_up_to_what_the_library_was_compiled_for() -> None:
    assert configurations([BIG, LITTLE], 3, None, None) == [
        *(Configuration("big", cpus) for cpus in ((4,), (4, 5), (4, 5, 6))),
        *(Configuration("little", cpus) for cpus in ((0,), (0, 1), (0, 1, 2))),
    ]
    assert [one.threads for one in configurations([BIG], 8, None, None)] == [1, 2, 4]
    assert configurations([BIG, LITTLE], 4, "little", 2) == [Configuration("little", (0, 1))]
    assert configurations([BIG, LITTLE], 2, "3-4", 2) == [Configuration("3-4", (3, 4))]


def test_processors_that_are_not_there_are_refused() -> None:
    for pin in ("8", "3-9", "middle"):
        with pytest.raises(UsageError, match=r"no such processors; it has big \(4,5,6,7\); littl"):
            configurations([BIG, LITTLE], 1, pin, None)
    with pytest.raises(UsageError, match="--threads 5 is more than the device has"):
        configurations([BIG, LITTLE], 8, None, 5)


def test_numbers_of_processors() -> None:
    assert parse_cpus("0,2-4") == (0, 2, 3, 4)
    assert parse_cpus("4,4") == (4,)
    for wrong in ("", "a", "1-", "-1", "4-2", "1,,2", "99999"):
        assert parse_cpus(wrong) is None
