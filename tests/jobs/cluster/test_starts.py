"""Clusters that a session starts itself: on this machine, and by what stands in for Slurm."""

import os
import time
from pathlib import Path

import pytest

from mbv3c.errors import ToolError, UsageError
from mbv3c.jobs.cluster.starts import as_variables
from mbv3c.jobs.cluster.where import Where
from mbv3c.jobs.job import Job
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from tests.command_line import python
from tests.jobs.cluster.processes import ROOT
from tests.jobs.test_local import alive, noted, silent

# Takes a job as sbatch does, and runs it here at once; scancel ends its process group.
SBATCH = """#!/bin/sh
for script; do :; done
cp "$script" "{folder}/script"
setsid bash "$script" > "{folder}/log" 2>&1 &
echo $! > "{folder}/number"
echo "Submitted batch job $!"
"""
SCANCEL = '#!/bin/sh\nkill -TERM -- "-$1"\n'


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def jobs_for(notes: Path) -> list[Job]:
    options = {"notes": str(notes)}
    return [Job("tests.jobs.work:square", {**options, "number": number}) for number in range(3)]


def test_without_a_cluster_there_are_processes(tmp_path: Path) -> None:
    with Where(jobs=3, threads=2).engine(Store(tmp_path / "store"), silent) as engine:
        assert engine == LocalProcesses(3, 2)


@pytest.mark.parametrize("cluster", [None, "local"])
def test_more_processes_than_a_machine_bears_are_refused(
    cluster: str | None, tmp_path: Path
) -> None:
    most = 32 * len(os.sched_getaffinity(0))
    where = Where(cluster, jobs=most + 1)
    with (
        pytest.raises(UsageError, match=f"--jobs {most + 1}: .* give {most} at most"),
        where.engine(Store(tmp_path / "store"), silent),
    ):
        pass


def test_slurm_is_asked_for_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    store = Store(tmp_path / "store")
    with pytest.raises(ToolError, match="no sbatch"), Where("slurm").engine(store, silent):
        pass
    with (
        pytest.raises(ToolError, match="dask-kubernetes"),
        Where("kubernetes").engine(store, silent),
    ):
        pass


def test_settings_are_variables_too() -> None:
    settings = {"distributed.scheduler.worker-saturation": 1.0}
    assert as_variables(settings) == {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}


RUN = """
import sys
from pathlib import Path
from mbv3c.jobs.cluster.where import Where
from mbv3c.jobs.engine import run_jobs
from mbv3c.jobs.store import Store
from tests.jobs.cluster.test_starts import jobs_for
if __name__ == "__main__":
    folder = Path(sys.argv[2])
    store = Store(folder / "store")
    with Where(sys.argv[1], jobs=1).engine(store, print) as engine:
        for one in run_jobs(jobs_for(folder / "notes"), store, engine, print):
            print("square", one.document["square"])
"""


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_cluster_is_started_and_ended(cluster: str, tmp_path: Path) -> None:
    program(tmp_path / "sbatch", SBATCH.format(folder=tmp_path))
    program(tmp_path / "scancel", SCANCEL)
    (tmp_path / "run.py").write_text(RUN)
    path = f"{tmp_path}:{os.environ['PATH']}"
    known = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    done = python(tmp_path / "run.py", cluster, tmp_path, PATH=path, PYTHONPATH=known)
    assert done.returncode == 0, done.stderr
    assert "square 0\nsquare 1\nsquare 4\n" in done.stdout
    assert sorted(noted(tmp_path / "notes")) == ["0", "1", "2"]
    if cluster == "slurm":
        script = (tmp_path / "script").read_text()
        assert "#SBATCH -J mbv3c" in script
        assert "tls://" in script
        end = time.monotonic() + 60
        while alive(int((tmp_path / "number").read_text())):
            assert time.monotonic() < end
            time.sleep(0.1)
