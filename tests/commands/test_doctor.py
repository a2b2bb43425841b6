"""`mbv3c doctor` as a user runs it."""

from pathlib import Path

import pytest

from mbv3c import doctor
from mbv3c.installing import install_extra
from tests.command_line import document, mbv3c


def test_doctor_finds_nothing_missing(emulator_kit: object) -> None:
    done = mbv3c("doctor", "--json")
    assert done.returncode == 0
    assert document(done)["healthy"] is True


def test_doctor_says_how_to_get_what_is_missing(tmp_path: Path) -> None:
    done = mbv3c("doctor", MBV3C_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "mbv3c doctor --fetch" in done.stdout


def test_doctor_names_what_only_some_targets_need(emulator_kit: object) -> None:
    done = mbv3c("doctor")
    assert done.returncode == 0
    assert "absent   npu tools" in done.stdout
    assert "ok       torch            torch 2.13.0" in done.stdout
    assert "ok       optuna           optuna 5.0.0" in done.stdout
    assert "ok       distributed      distributed 2026.8.0" in done.stdout
    assert install_extra("npu") in done.stdout


def test_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda package: None)
    monkeypatch.setattr(doctor, "torch_package", lambda: None)
    parts = [doctor._diagnose_torch(), *map(doctor._diagnose_extra, doctor._EXTRAS)]
    assert not any(part.ok for part in parts) and all(part.optional for part in parts)
    torch, optuna, dask = (part.remedy for part in parts)
    assert torch.startswith("for train, adapt and search, extra [train]: pip install torch==")
    assert optuna == f"for search: {install_extra('search')}"
    assert dask == f"for --cluster: {install_extra('cluster')}"


@pytest.mark.parametrize(("fetched", "status"), [("cycles", 0), ("all", 1)])
def test_what_else_is_missing_is_no_fault_of_a_fetch(
    fetched: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("mbv3c.doctor.fetch", lambda name, progress: asked.append(name))
    done = mbv3c("doctor", f"--fetch={fetched}", MBV3C_CACHE=str(tmp_path))
    assert (done.returncode, asked) == (status, [fetched])
    assert "MISSING  emulator" in done.stdout
