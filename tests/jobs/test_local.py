"""Jobs in local processes: each done once, whatever dies."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mbv3c.errors import BundleError, UsageError
from mbv3c.jobs import local
from mbv3c.jobs.engine import JobFailed, run_jobs
from mbv3c.jobs.job import Job, job_from
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from tests.command_line import finished

ROOT = Path(__file__).parents[2]
TWO = LocalProcesses(workers=2)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of jobs import this folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def job(what: str, notes: Path, number: int = 0, **more: Any) -> Job:
    options = {"notes": str(notes), "number": number, **more}
    return Job(f"tests.jobs.work:{what}", options, title=f"{what} {number}")


def silent(text: str) -> None:
    pass


def noted(notes: Path) -> list[str]:
    return [line.split()[0] for line in notes.read_text().splitlines()]


def test_jobs_are_done_once_and_in_order(store: Store, tmp_path: Path) -> None:
    notes, said = tmp_path / "notes", list[str]()
    given = store.put(b"hello")
    jobs = [job("square", notes, number) for number in (3, 1, 3, 2)]
    jobs[1] = Job(jobs[1].kind, jobs[1].options, {"greeting": given})
    results = run_jobs(jobs, store, TWO, said.append)
    assert [one.document["square"] for one in results] == [9, 1, 9, 4]
    assert results[1].document["read"] == {"greeting": "hello"}
    assert results[0].document["threads"] == "1"
    assert {name: path.read_text() for name, path in results[3].files.items()} == {
        "below/text": "2"
    }
    assert sorted(noted(notes)) == ["1", "2", "3"]
    assert said[-1].endswith("3 of 3")
    again = run_jobs(jobs, store, TWO, said.append)
    assert again == results
    assert len(noted(notes)) == 3
    assert not list((store.folder / "attempts").iterdir())
    assert not list((store.folder / "claims").iterdir())


def test_a_killed_process_is_tried_again_from_what_it_has_left(store: Store) -> None:
    said = list[str]()
    (result,) = run_jobs([Job("tests.jobs.work:die_once")], store, TWO, said.append)
    assert result.document == {"names": [".left"]}
    assert not result.files
    assert "died; trying again" in said[0]


def test_a_long_job_is_told_of(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_TOLD", 0.1)
    said = list[str]()
    run_jobs([job("talk", tmp_path / "notes", 1)], store, TWO, said.append)
    words = [text for text in said if "half is done" in text]
    assert len(words) == 1
    assert words[0].startswith("talk 1 (")


def test_a_stopped_job_is_told_of_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_TOLD", 0.1)
    said = list[str]()

    def heard(text: str) -> None:
        said.append(text)
        if found := re.search(r"stop \(.*\) is stopped; `kill -CONT (\d+)`", text):
            os.kill(int(found[1]), signal.SIGCONT)

    job = Job("tests.jobs.work:stop", title="stop")
    (result,) = run_jobs([job], store, TWO, heard)
    assert result.document == {"went": "on"}
    assert len([text for text in said if "is stopped" in text]) == 1


def test_what_crashes_again_and_again_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="ended by SIGSEGV, 3 times") as caught:
        run_jobs([job("die", tmp_path / "notes", 7)], store, TWO, silent)
    assert noted(tmp_path / "notes") == ["7"] * 3
    assert "about to crash" in str(caught.value)
    command = str(caught.value).rpartition("repeat it by: ")[2].split()
    done = finished(command)
    assert done.returncode == -signal.SIGSEGV
    assert "about to crash" in done.stderr


def test_what_is_refused_is_not_tried_again_and_stops_the_others(
    store: Store, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    jobs = [job("refuse", notes), *(job("square", notes, number) for number in (1, 2))]
    with pytest.raises(JobFailed, match="no such thing; name another") as caught:
        run_jobs(jobs, store, LocalProcesses(1), silent)
    assert caught.value.cause == "usage"
    assert noted(notes) == ["0"]
    first, *others = run_jobs(jobs, store, TWO, silent, failures="return")
    assert isinstance(first, JobFailed)
    assert [one.document["square"] for one in others if not isinstance(one, JobFailed)] == [1, 4]


def test_a_fault_shows_its_lines(store: Store, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="status 1") as caught:
        run_jobs([job("fault", tmp_path / "notes")], store, TWO, silent)
    assert caught.value.cause is None
    assert "ZeroDivisionError" in str(caught.value)


def test_a_full_disk_is_told_in_words(store: Store, tmp_path: Path) -> None:
    """Also where there is no space left to say so."""
    jobs = [job("fill", tmp_path / "notes", number) for number in (0, 1)]
    some, none = run_jobs(jobs, store, TWO, silent, failures="return")
    assert isinstance(some, JobFailed) and isinstance(none, JobFailed)
    assert some.cause == "system"
    assert "No space left on device: free some space" in str(some)
    assert "there is no space left for" in str(none)
    assert "Traceback" not in f"{some} {none}"


def test_a_store_on_a_full_disk_is_named(store: Store) -> None:
    class Full:
        at_once = 1

        def run(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BundleError, match=f"{store.folder}: No space left .* with --store"):
        run_jobs([Job("tests.jobs.work:talk")], store, Full(), silent)


RUN = """
import sys
from pathlib import Path
from mbv3c.jobs import local
from mbv3c.jobs.engine import run_jobs
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from tests.jobs.test_local import job
what, folder, *numbers = sys.argv[1:]
notes = Path(folder) / "notes"
jobs = [job(what, notes, int(number), seconds=0.1) for number in numbers]
for one in run_jobs(jobs, Store(Path(folder) / "store"), LocalProcesses(2), print):
    print(one.document["square"])
"""


def runner(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def test_two_runs_on_one_store_do_nothing_twice(tmp_path: Path) -> None:
    numbers = range(5)
    runs = [runner("square", tmp_path, *order) for order in (numbers, reversed(numbers))]
    for run in runs:
        assert run.communicate(timeout=120)[0].count(b"\n") >= len(numbers)
        assert run.returncode == 0
    assert sorted(noted(tmp_path / "notes")) == [str(number) for number in numbers]


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    run, notes = runner("start_another", tmp_path, 1), tmp_path / "notes"
    while not notes.exists() or not notes.read_text():
        assert run.poll() is None
        time.sleep(0.02)
    below = [int(number) for number in notes.read_text().split()]
    run.kill()
    run.communicate()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{process}/cmdline").exists() and alive(process) for process in below):
        assert time.monotonic() < end
        time.sleep(0.02)
    # Its claim has gone with it.
    store = Store(tmp_path / "store")
    claim = store.claim(job("start_another", notes, 1, seconds=0.1).name)
    assert claim is not None
    claim.close()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def test_the_name_is_all_that_decides_the_result(tmp_path: Path) -> None:
    first = job("square", tmp_path, 1)
    assert job_from(first.to_json()) == first
    assert job_from(first.to_json()).name == first.name
    titled = Job(first.kind, first.options, resources={"npu": 1}, title="another")
    assert titled.name == first.name
    others = [
        job("square", tmp_path, 2),
        job("die", tmp_path, 1),
        Job(first.kind, first.options, {"model": "0" * 64}),
        Job(first.kind, first.options, packages=("onnx",)),
    ]
    assert len({first.name, *(other.name for other in others)}) == 5
    assert others[3].versions.keys() == {"mbv3c", "onnx"}
    assert Job(first.kind, packages=("no-such-package",)).versions["no-such-package"] == (
        "not installed"
    )


def test_the_store_says_what_it_lacks(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind of jobs 'bake'"):
        _ = Job("bake").name
    with pytest.raises(UsageError, match="cannot be read"):
        store.put(tmp_path / "nothing")
    missing = Job("tests.jobs.work:square", files={"model": "0" * 64})
    with pytest.raises(BundleError, match="holds no file of sha256 0000"):
        run_jobs([missing], store, TWO, silent)
    for outside in ("../file", "/tmp/file"):
        with pytest.raises(BundleError, match="outside of its folder"):
            store.keep_bytes(missing.name, {}, {outside: b""})
    assert store.result(missing) is None
    shutil.rmtree(store.folder / "claims")
    with pytest.raises(BundleError, match=r"cannot write .*/claims/.*; name another folder"):
        run_jobs([missing], store, TWO, silent)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="name another folder"):
        Store(tmp_path / "file")


def test_a_result_of_which_something_is_gone_is_damaged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("whole")
    kept = store.keep("done", {"a": 1}, {"below/text": tmp_path / "text"})
    assert store.result("done") == kept
    place, folder = kept.files["below/text"], store.folder / "results" / "done"
    document, digests = folder / "result.json", folder / "sha256.json"
    for path, content in (
        *((place, "who"), (place, "whale")),
        *((document, "[]"), (document, '{"a"'), (document, '{"a": 2}')),
        *((digests, "{}"), (digests, "")),
    ):
        before = path.read_text()
        path.write_text(content)
        with pytest.raises(BundleError, match="done is damaged; remove it, and it is computed"):
            Store(store.folder).result("done")
        path.write_text(before)
    assert store.result("done") == kept
    digests.unlink()
    with pytest.raises(BundleError, match="is damaged"):
        store.result("done")
    (folder / "sizes.json").write_text('{"below/text": 5}')  # as older versions wrote it
    assert store.result("done") == kept
    place.unlink()
    with pytest.raises(BundleError, match="is damaged"):
        store.result("done")


def test_a_damaged_input_is_written_anew_and_no_job_begins_on_it(store: Store) -> None:
    digest = store.put(b"hello")
    store.get(digest).write_bytes(b"jello")
    other = Store(store.folder)
    with pytest.raises(BundleError, match=f"{digest} is damaged; call the command again"):
        run_jobs([Job("tests.jobs.work:square", files={"a": digest})], other, TWO, silent)
    assert other.put(b"hello") == digest
    assert other.get(digest).read_bytes() == b"hello"
