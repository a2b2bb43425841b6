"""Jobs on a cluster of four processes on loopback, one of which is killed: each is done once."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mbv3c.errors import UsageError
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


def test_the_scheduler_is_killed_and_started_again(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    options = {"notes": str(notes), "seconds": 1}
    jobs = [Job("tests.jobs.work:square", {**options, "number": n}) for n in range(COUNT)]
    with cluster(tmp_path / "cluster", workers=2) as made:
        port = int(made.address.rpartition(":")[2])

        def kill(text: str) -> None:
            if text.endswith(f"1 of {COUNT}"):
                made.kill("scheduler")
                threading.Timer(3, made.start_scheduler, [port]).start()

        results = run_jobs(jobs, store, DaskWorkers(made.address), kill)
    assert [one.document["square"] for one in results] == [n * n for n in range(COUNT)]
    assert sorted(noted(notes)) == [str(number) for number in range(COUNT)]


def test_certificates_keep_others_out(tmp_path: Path) -> None:
    names = write_certificates(tmp_path)
    settings = {f"distributed.comm.tls.{name}": str(path) for name, path in names.items()}
    variables = {
        f"DASK_DISTRIBUTED__COMM__TLS__{name.upper().replace('.', '__').replace('-', '_')}": str(
            path
        )
        for name, path in names.items()
    }
    store, notes = Store(tmp_path / "store"), tmp_path / "notes"
    jobs = [Job("tests.jobs.work:square", {"notes": str(notes), "number": 5})]
    with cluster(tmp_path / "cluster", workers=1, **variables) as made:
        assert made.address.startswith("tls://")
        with dask.config.set(settings):
            (result,) = run_jobs(jobs, store, DaskWorkers(made.address), silent)
        assert result.document["square"] == 25
        other = Store(tmp_path / "other")
        with pytest.raises(UsageError, match="Dask's settings name none"):
            run_jobs(jobs, other, DaskWorkers(made.address), silent)
        with pytest.raises(ClusterError, match="no scheduler answers"):
            plain = made.address.replace("tls://", "tcp://")
            run_jobs(jobs, other, DaskWorkers(plain, patience=1), silent)


def write_certificates(folder: Path) -> dict[str, Path]:
    """Make a certificate that signs itself, for all; return Dask's settings."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mbv3c test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    settings = {"ca-file": cert}
    for role in ("scheduler", "worker", "client"):
        settings |= {f"{role}.cert": cert, f"{role}.key": private}
    return settings
