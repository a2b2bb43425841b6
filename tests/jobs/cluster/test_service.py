"""What a cluster's processes are told, and what they refuse."""

import errno
import os
import re
import signal
from pathlib import Path

import dask
import pytest

from mbv3c.errors import BundleError, UsageError
from mbv3c.jobs.cluster import work
from mbv3c.jobs.cluster.need import full_address
from mbv3c.jobs.cluster.service import parse_resources, run_scheduler, run_worker
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Store
from tests.command_line import mbv3c
from tests.jobs.cluster.processes import Cluster


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("server", "tcp://server:8786"),
        ("10.0.0.2:99", "tcp://10.0.0.2:99"),
        ("tls://server:1", "tls://server:1"),
        ("[::1]:5", "tcp://[::1]:5"),
    ],
)
def test_an_address_gets_protocol_and_port(text: str, address: str) -> None:
    assert full_address(text) == address


@pytest.mark.parametrize("text", ["", "server:port", "http://server", "tcp://a:1/b", "a:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no address of a scheduler"):
        full_address(text)


def test_resources_are_numbers_or_words() -> None:
    assert parse_resources("npu=2, board=pi5") == {"npu": 2.0, "board=pi5": 1.0}
    assert parse_resources(None) == {}
    for text in ("npu", "=1", "npu=", "npu=0", "npu=-1", "npu=nan"):
        with pytest.raises(UsageError, match=re.escape(f"--resources {text!r}")):
            parse_resources(text)


def test_a_workers_full_disk_is_no_lost_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError would be taken for the connection's, and the job be asked for again for ever."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv(work.STORE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("distributed.get_worker", lambda: None)
    monkeypatch.setattr(Store, "put", full)
    said = work.perform(Job("a:b").to_json(), {"0": b""}, work.describe([]), 1)
    assert said["failed"]["cause"] == "system"
    assert f"{tmp_path}: No space left on device; free some" in said["failed"]["reason"]
    monkeypatch.setattr("mbv3c.jobs.store.scratch_folder", full)
    with pytest.raises(BundleError, match="cannot keep the result of x: No space left"):
        Store(tmp_path).keep_bytes("x", {}, {})


def test_other_machines_are_not_listened_to_without_tls() -> None:
    with pytest.raises(UsageError, match="run programs as you"):
        run_scheduler("0.0.0.0", 0, print)
    with pytest.raises(UsageError, match="run programs as you"):
        run_worker("tcp://192.0.2.1:8786", 1, {}, None, print)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="settings name none"):
        run_worker("tls://192.0.2.1:8786", 1, {}, None, print)  # type: ignore[arg-type]
    done = mbv3c("cluster", "scheduler", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


@pytest.mark.parametrize("missing", ["ca-file", "scheduler.cert", "scheduler.key"])
def test_a_certificate_that_is_not_there_is_named(missing: str, tmp_path: Path) -> None:
    settings = {}
    for name in ("ca-file", "scheduler.cert", "scheduler.key"):
        file = tmp_path / name
        if name != missing:
            file.touch()
        settings[f"distributed.comm.tls.{name}"] = str(file)
    with (
        dask.config.set(settings),
        pytest.raises(UsageError, match=f"no certificate at .* name as `{missing}` "),
    ):
        run_scheduler("127.0.0.1", 0, print)


def test_a_scheduler_says_what_comes_next_and_ends_by_an_interrupt(tmp_path: Path) -> None:
    made = Cluster(tmp_path, {})
    made.start_scheduler()
    address = made.line("scheduler", "with `--cluster ").rstrip("`")
    assert f"tcp://{address}" == made.address
    process = made.processes["scheduler"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    said = (tmp_path / "scheduler.log").read_text()
    assert f"`mbv3c cluster worker {address}`" in said
    assert said.endswith("s] stopped\n")
    assert "error" not in said
