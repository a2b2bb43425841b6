"""Tuning whose contests are jobs finds what tuning in one process finds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.place import Place, parse_address
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.jobs.ahead import JobsAhead
from mbv3c.jobs.engine import JobFailed
from mbv3c.jobs.store import Store
from mbv3c.passes import run_pipeline
from mbv3c.targets import find_target
from mbv3c.targets.contests import contest
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.library import contest_jobs
from mbv3c.targets.library.contest_jobs import ContestJobs, task_document, task_of
from mbv3c.targets.opencl.backend import BACKEND as OPENCL
from mbv3c.tuning import ahead
from mbv3c.tuning import tuner as tuning
from mbv3c.tuning.database import RECORDS, Database, Task, tasks_of
from mbv3c.tuning.holding import ContestFailedError, Wanted
from mbv3c.tuning.meters import CountingMeter
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.tuner import SearchResult, Tuner
from tests.jobs.at_once import HereAtOnce

A76 = find_target("arm_cpu:cortex-a76")
KERNELS = BACKEND.kernels(A76)
TRIALS = 3


def silent(said: object) -> None:
    pass


@pytest.fixture(scope="module")
def tasks(little_file: Path) -> list[Task]:
    rewritten = run_pipeline(onnx.load(little_file))[0]
    return tasks_of([BACKEND.lower_graph(rewritten, Job(A76)).plan])[1:]  # which build quickly


@pytest.fixture
def meter(emulator_kit: EmulatorKit) -> CountingMeter:
    return CountingMeter(emulator_kit, "cortex-a76")


@pytest.fixture
def jobs(meter: CountingMeter, tmp_path: Path) -> Callable[[HereAtOnce], ContestJobs]:
    def through(engine: HereAtOnce) -> ContestJobs:
        store = Store(tmp_path / "store")
        return ContestJobs(A76, KERNELS, meter, JobsAhead(engine, store, silent))

    return through


def test_the_database_is_that_of_one_process(
    tasks: list[Task],
    meter: CountingMeter,
    jobs: Callable[[HereAtOnce], ContestJobs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (ahead, tuning):
        monkeypatch.setattr(module, "BATCH", 2)

    def searched(name: str, elsewhere: ContestJobs | None) -> tuple[SearchResult, bytes]:
        database = Database(tmp_path / name)
        tuner = Tuner(KERNELS, meter, database, silent, elsewhere=elsewhere)
        found = tuner.run(tasks, Budget(TRIALS), 0)
        return found, (database.folder / RECORDS).read_bytes()

    here, records = searched("here", None)
    assert here.trials == TRIALS
    engine = HereAtOnce()
    there, others = searched("there", jobs(engine))
    assert others == records
    assert there.winners == here.winners
    # The second kernel's batch was done beside the first one's, and nothing twice or in vain.
    assert len(engine.asked[0]) == 2
    assert len(set(engine.names)) == len(engine.names)
    again = HereAtOnce()
    assert searched("again", jobs(again))[1] == records
    assert not again.asked


def test_what_fails_is_of_a_candidate_or_ends_the_search(
    tasks: list[Task],
    jobs: Callable[[HereAtOnce], ContestJobs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = Wanted(tasks[0], [KERNELS.default(tasks[0])])
    crashed = jobs(HereAtOnce(fault=("its process was ended by SIGSEGV, 3 times", None)))
    with pytest.raises(ContestFailedError, match="SIGSEGV") as caught:
        crashed.hold(wanted)
    assert caught.value.outcome == "run"
    with pytest.raises(JobFailed, match="the emulator is not here"):
        jobs(HereAtOnce(fault=("the emulator is not here", "tool"))).hold(wanted)
    options = dict(jobs(HereAtOnce()).job(wanted).options)
    with pytest.raises(ToolError, match=r"and qemu 0\.1 where the contest was asked for"):
        contest({**options, "programs": "qemu 0.1"}, {}, Path(), silent)

    def fails(*given: object) -> None:
        raise ContestFailedError("build", "no such register")

    monkeypatch.setattr(contest_jobs, "held", fails)
    with pytest.raises(ContestFailedError, match="no such register") as caught:
        jobs(HereAtOnce()).hold(wanted)
    assert caught.value.outcome == "build"


def test_a_job_has_all_of_a_kernel(
    blocks: onnx.ModelProto, jobs: Callable[[HereAtOnce], ContestJobs]
) -> None:
    plan = BACKEND.lower_graph(run_pipeline(blocks)[0], Job(A76)).plan
    held = jobs(HereAtOnce())
    names = set()
    for task in tasks_of([plan]):
        read = task_of(task_document(task), KERNELS)
        assert (read.kind, read.shape, read.key) == (task.kind, task.shape, task.key)
        assert task_document(read) == task_document(task)
        names.add(held.job(Wanted(task, [KERNELS.default(task)])).name)
    assert len(names) == len(tasks_of([plan]))
    others = [
        replace(held, target=replace(A76, cores=1)),
        replace(held, meter=replace(held.meter, cpu="cortex-a55")),
    ]
    first = Wanted(task, [KERNELS.default(task)])
    assert not names & {one.job(first).name for one in others}


def test_what_is_timed_is_not_for_jobs(emulator_kit: EmulatorKit, tmp_path: Path) -> None:
    board = Place(parse_address("board:9090", "--device"))
    for backend, name, more, said in (
        (BACKEND, "host_cpu", {"cluster": "local"}, "host_cpu:native is timed, here"),
        (BACKEND, "arm_cpu", {"jobs": 2, "place": board}, "boards share the work by --tracker"),
        (OPENCL, "mobile_gpu:mali", {"jobs": 2}, "answers at once, here: leave"),
    ):
        with pytest.raises(UsageError, match=said):
            backend.check_tuning(Job(find_target(name)), TuneRequest(tmp_path, **more))
    BACKEND.check_tuning(Job(A76), TuneRequest(tmp_path, jobs=2))
