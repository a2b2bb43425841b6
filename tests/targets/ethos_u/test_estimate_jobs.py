"""Vela asked in jobs: the database is that of asking one after the other."""

from pathlib import Path
from zlib import crc32

import pytest

from mbv3c.jobs.ahead import JobsAhead
from mbv3c.jobs.engine import Engine
from mbv3c.jobs.store import Store
from mbv3c.targets import find_target
from mbv3c.targets.ethos_u import vela as ethos_u
from mbv3c.targets.ethos_u.devices import Knobs, NpuTarget
from mbv3c.targets.ethos_u.tuning.estimate_jobs import EstimateJobs
from mbv3c.targets.ethos_u.tuning.estimates import (
    Explored,
    Lowered,
    NothingEstimatedError,
    estimates_for,
    explore,
)
from mbv3c.tuning.database import RECORDS
from tests.jobs.at_once import HereAtOnce

U85 = find_target("npu:ethos-u85-256")
assert isinstance(U85, NpuTarget)
NETWORK = Lowered("net", {"pool": b"with a pool", "depthwise": b"with a convolution"})


def silent(line: str) -> None:
    pass


def asked(tosa: bytes, target: NpuTarget, knobs: Knobs) -> tuple[ethos_u.Cost, bool]:
    """Take about as much SRAM as may be, sometimes more, sometimes far less."""
    drawn = crc32(repr((tosa, knobs)).encode())
    arena = knobs.arena_cache_size or 1 << 20
    sram = arena * (drawn % 13) // 10
    return ethos_u.Cost(drawn, drawn / 5e5, sram, 0, 1 << 20, 9, ()), sram <= arena


def explored(root: Path, trials: int | None, engine: Engine | None) -> tuple[Explored, bytes]:
    store = Store(root / "store")
    elsewhere = None if engine is None else EstimateJobs(U85, JobsAhead(engine, store, silent))
    database = estimates_for(root, U85)
    found = explore(NETWORK, U85, database, trials=trials, report=silent, elsewhere=elsewhere)
    return found, (database.folder / RECORDS).read_bytes()


@pytest.mark.parametrize("trials", [None, 1, 11])
@pytest.mark.parametrize("workers", [1, 7])
def test_nothing_is_asked_that_asking_in_turn_does_not_ask(
    trials: int | None, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ethos_u, "estimate", asked)
    here, records = explored(tmp_path / "here", trials, None)
    engine = HereAtOnce(workers)
    there, others = explored(tmp_path / "there", trials, engine)
    assert others == records
    assert there == here
    assert here.skipped or trials == 1
    assert len(set(engine.names)) == len(engine.names) == here.estimated
    assert max(map(len, engine.asked)) > 1 or trials == 1


def test_a_job_says_what_vela_says(tmp_path: Path) -> None:
    with pytest.raises(NothingEstimatedError, match="vela failed with status"):
        explored(tmp_path, 1, HereAtOnce())
