"""Jobs on a cluster of four processes on loopback, one of which is killed: each is done once."""

import threading
import time
from pathlib import Path

import pytest

from mbv3c.jobs import job as jobs_module
from mbv3c.jobs.cluster.dask_engine import DaskWorkers
from mbv3c.jobs.cluster.need import ClusterError
from mbv3c.jobs.engine import JobFailed, run_jobs
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from tests.jobs.cluster.processes import Cluster, cluster
from tests.jobs.test_local import alive, noted, silent

COUNT = 6


def made_jobs(folder: Path, store: Store) -> list[Job]:
    options = {"notes": str(folder / "notes"), "victim": str(folder / "victim")}
    files = {"greeting": store.put(b"hello")}
    kinds = ["wait_to_be_killed", *["square"] * (COUNT - 1)]
    return [
        Job(f"tests.jobs.work:{kind}", {**options, "number": number}, files)
        for number, kind in enumerate(kinds)
    ]


def kill_the_worker(made: Cluster, victim: Path, killed: list[str]) -> None:
    """Wait until a job is under way, and kill its worker."""
    end = time.monotonic() + 120
    while not victim.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    name = Path(victim.read_text().split()[1]).name
    killed.append(name)
    made.kill(name)


def test_one_of_four_processes_is_killed_and_all_jobs_are_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, said, killed = Store(tmp_path / "store"), list[str](), list[str]()
    jobs = made_jobs(tmp_path, store)
    with cluster(tmp_path / "cluster", workers=3) as made:
        engine = DaskWorkers(made.address)
        arguments = (made, tmp_path / "victim", killed)
        killer = threading.Thread(target=kill_the_worker, args=arguments)
        killer.start()
        results = run_jobs(jobs, store, engine, said.append)
        killer.join()
        assert [one.document["square"] for one in results] == [n * n for n in range(COUNT)]
        assert results[0].document["read"] == {"greeting": "hello"}
        assert results[1].files["below/text"].read_text() == "1"
        assert sorted(noted(tmp_path / "notes")) == [str(number) for number in range(COUNT)]
        assert not alive(int((tmp_path / "victim").read_text().split()[0]))

        # Another session gets from the workers that live what they have done.
        lost = list((made.folder / killed[0] / "results").iterdir())
        other = Store(tmp_path / "other")
        again = run_jobs(made_jobs(tmp_path, other), other, engine, silent)
        assert [one.document for one in again] == [one.document for one in results]
        assert len(noted(tmp_path / "notes")) == COUNT + len(lost)

        # What is refused and what crashes is said, with the machine, and no worker dies of it.
        options = {"notes": str(tmp_path / "failures"), "number": 0}
        failing = [Job(f"tests.jobs.work:{kind}", options) for kind in ("refuse", "die")]
        refused, crashed = run_jobs(failing, other, engine, silent, failures="return")
        assert isinstance(refused, JobFailed)
        assert refused.cause == "usage"
        assert isinstance(crashed, JobFailed)
        assert "SIGSEGV" in crashed.reason
        assert "repeat it by" in str(crashed)
        assert noted(tmp_path / "failures") == ["0"] * 4

        with pytest.raises(ClusterError, match="no worker has npu=1, which"):
            run_jobs([Job("tests.jobs.work:square", resources={"npu": 1})], other, engine, silent)
        monkeypatch.setattr(jobs_module, "__version__", "0.0.9")
        with pytest.raises(ClusterError, match=r"at tcp://.* has mbv3c .*this machine 0\.0\.9"):
            run_jobs([Job("tests.jobs.work:square")], other, engine, silent)
