"""What `compile` takes from the databases for a target."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mbv3c.lowering.plan import TUNED, GlobalPool
from mbv3c.targets.cpu import isa
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import CPUS, HOST_CPU, CpuTarget
from mbv3c.targets.cpu.isa import ISAS
from mbv3c.targets.library.building import best_known, measured_on
from mbv3c.tuning.choices import OWN, MeasuredChoices, from_elsewhere, looked_in, shipped
from mbv3c.tuning.database import Database, Record, folder_for, key_of

HOST = HOST_CPU
AVX2, AVX512 = (cpu for cpu in CPUS if cpu.isa)
POOL = GlobalPool(1, 49, 64)
OTHER = GlobalPool(1, 49, 320)
THIRD = GlobalPool(1, 49, 1280)


def measured(target: CpuTarget, roots: list[Path]) -> MeasuredChoices:
    return best_known(BACKEND, target, roots)


def keep(
    root: Path, target: CpuTarget, shape: GlobalPool, vectors: int, cost: float = 80.0
) -> None:
    """Write what a search leaves: the default, a candidate, and the winner if it is one."""
    origin = measured_on(BACKEND, target)
    database = Database(folder_for(root, origin.device))
    database.open(origin.context("us"), {})
    key = key_of("global_pool", shape)
    one = Record(key, {"vectors": vectors}, "ok", cost, 100.0)
    database.append([Record(key, {"vectors": 1}, "ok", 100.0, 100.0), one])
    if cost < 100.0:
        database.append([replace(one, kept=True)])


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a processor with AVX-512."""
    monkeypatch.setattr(isa, "_flags", lambda: frozenset(ISAS["AVX-512"]))


@pytest.mark.usefixtures("processor")
def test_this_very_core_wins_kernel_by_kernel(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    keep(own, HOST, POOL, 2, 90.0)
    keep(own, HOST, THIRD, 2, 110.0)  # here the default is the best
    for shape in (POOL, OTHER, THIRD):
        keep(shipped, AVX512, shape, 4, 50.0)
    found = measured(HOST, [own, shipped])
    assert found.find("global_pool", POOL) == {"vectors": 2}
    assert found.find("global_pool", OTHER) == {"vectors": 4}
    assert found.find("global_pool", THIRD) is None
    assert found.near("global_pool", THIRD) is None
    assert _from(found, "another processor with AVX-512", OTHER, POOL)
    assert not found.warnings


@pytest.mark.usefixtures("processor")
def test_nothing_is_said_where_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    keep(tmp_path, HOST, POOL, 2)
    keep(tmp_path, AVX512, POOL, 4)
    keep(tmp_path, AVX2, OTHER, 4)
    found = measured(HOST, [tmp_path])
    assert found.find("global_pool", POOL) == {"vectors": 2}
    assert found.find("global_pool", OTHER) is None  # of fewer instructions than there are
    assert found.elsewhere[0] == frozenset()


def _from(found: MeasuredChoices, processor: str, known: GlobalPool, unknown: GlobalPool) -> bool:
    """Say whether one kernel is another processor's, and which networks are told of it."""
    keys, name = found.elsewhere
    assert len(keys) == 1
    step = SimpleNamespace(origin=TUNED, kind="global_pool", shape=known)
    other = SimpleNamespace(origin=TUNED, kind="global_pool", shape=unknown)
    plans = [SimpleNamespace(steps=steps) for steps in ([step, step], [step], [other], [])]
    twice, once, *none = (from_elsewhere(plan, found) for plan in plans)  # type: ignore[arg-type]
    assert once == [f"1 kernel of this network is as tuned on {processor}, not on this one"]
    assert twice == [f"2 kernels of this network are as tuned on {processor}, not on this one"]
    return name == processor and none == [[], []]


def test_a_processor_without_avx512_takes_avx2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isa, "_flags", lambda: frozenset(ISAS["AVX2"]))
    keep(tmp_path, AVX512, POOL, 4)
    keep(tmp_path, AVX2, POOL, 2)
    found = measured(HOST, [tmp_path])
    assert found.find("global_pool", POOL) == {"vectors": 2}
    assert _from(found, "another processor with AVX2", POOL, OTHER)


@pytest.mark.usefixtures("processor")
def test_a_portable_target_takes_its_own_only(tmp_path: Path) -> None:
    keep(tmp_path, HOST, POOL, 2)
    assert measured(AVX512, [tmp_path]).find("global_pool", POOL) is None
    keep(tmp_path, AVX512, POOL, 4)
    assert measured(AVX512, [tmp_path]).find("global_pool", POOL) == {"vectors": 4}
    assert measured(AVX512, [tmp_path]).elsewhere[0] == frozenset()


@pytest.mark.usefixtures("processor")
def test_a_stale_database_of_another_processor_is_named(tmp_path: Path) -> None:
    origin = measured_on(BACKEND, AVX512)
    folder = folder_for(tmp_path, origin.device)
    Database(folder).open(replace(origin, kernels=0).context("us"), {})
    found = measured(HOST, [tmp_path])
    assert [str(folder) in one for one in found.warnings] == [True]
    assert found.elsewhere[0] == frozenset()


def test_own_measurements_come_before_those_that_are_shipped(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    keep(own, AVX2, POOL, 2, 90.0)
    keep(own, AVX2, THIRD, 2, 110.0)  # here the default is the best
    for shape in (POOL, OTHER, THIRD):
        keep(shipped, AVX2, shape, 4, 50.0)
    found = measured(AVX2, [own, shipped])
    assert found.find("global_pool", POOL) == {"vectors": 2}
    assert found.find("global_pool", OTHER) == {"vectors": 4}
    assert found.find("global_pool", THIRD) is None


def test_it_is_said_where_tuning_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roots, a76 = (OWN, shipped()), ["arm_cpu:cortex-a76"]
    own = "tuning is taken from tune_logs/arm_cpu/cortex-a76 of this folder"
    assert looked_in(roots, a76) == f"{own} (not there), then what comes with mbv3c"
    (tmp_path / "tune_logs/arm_cpu/cortex-a76").mkdir(parents=True)
    assert looked_in(roots, a76) == f"{own}, then what comes with mbv3c"
    assert looked_in(roots, ["npu:ethos-u55-128"]).endswith(
        "ethos-u55-128 of this folder (not there)"
    )
    assert looked_in((tmp_path,), a76).endswith(f"{tmp_path}/arm_cpu/cortex-a76 (not there)")
