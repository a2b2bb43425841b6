"""`mbv3c bench --device` on real servers: ours and TVM's own. No test looks at times."""

import json
import os
import shutil
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.device.bench_session import Bench
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.runner import RpcRunner
from tests.built_once import built_once
from tests.command_line import document, mbv3c
from tests.execution.device.libraries import X
from tests.execution.device.serving import HOST, Served

KEYS = {
    *("bundle", "bundle_sha256", "ran_on", "machine", "configurations", "sustained", "versions"),
    "missing",
}


@pytest.fixture(scope="session")
def bundle(blocks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        options = ("--target", "host_cpu", "--cores", 2, "--no-verify")
        done = mbv3c("compile", blocks_file, *options, "-o", folder / "bundle")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "blocks for two cores", build) / "bundle"


def test_a_device_is_measured(bundle: Path, device: Served, tmp_path: Path) -> None:
    options = ("--device", device.address, "--runs", 12, "--minutes", 0.05, "--json")
    found = document(mbv3c("bench", bundle, *options))
    assert found.keys() == KEYS
    assert found["ran_on"].endswith(f"device {device.address} (the library itself)")
    assert found["versions"] == {"onnxruntime": version("onnxruntime")}
    threads = [1, 2][: len(os.sched_getaffinity(0))]
    assert [row["threads"] for row in found["configurations"]] == threads
    for row in found["configurations"]:
        assert len(row["cpus"]) == row["threads"]
        for side in (row["ours"], row["theirs"]):
            spread = side["spread"]
            assert spread["runs"] == 12
            assert 0 < spread["min_ms"] <= spread["median_ms"] <= spread["p90_ms"]
            assert spread["p90_ms"] <= spread["max_ms"]
            assert spread["p99_ms"] is None  # twelve runs do not tell
            assert side["memory_bytes"] > 0
        lower, upper = row["ratio"]["quartiles"]
        assert lower <= row["ratio"]["median"] <= upper
    long = found["sustained"]
    assert long["minutes"] == pytest.approx(0.05, rel=0.5)
    assert long["threads"] in {row["threads"] for row in found["configurations"]}
    assert sum(window["spread"]["runs"] for window in long["windows"]) > 10
    told = {text.partition(":")[0] for text in found["missing"]}
    assert ("temperature" in told) == (found["configurations"][0]["celsius"] is None)
    assert ("clock" in told) == (found["configurations"][0]["mhz"] is None)
    # A report takes it.
    (tmp_path / "bench.json").write_text(json.dumps(found))
    done = mbv3c("report", bundle, "--bench", tmp_path / "bench.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert f"On {found['ran_on']}" in page
    assert f"--device HOST:PORT --runs 12 --minutes {long['minutes']:.3g} --json" in page
    # Its session is over, and the sides' processes are gone with it.
    device.await_line("done with")
    assert device.sessions() == []


def test_it_reads_in_eighty_columns(bundle: Path, device: Served) -> None:
    options = ("--device", device.address, "--runs", 5, "--threads", 1, "--pin", "0")
    done = mbv3c("bench", bundle, *options)
    assert done.returncode == 0, done.stderr
    ran_on, heads, row, what, *rest = done.stdout.splitlines()
    assert ran_on.endswith("(the library itself)")
    assert heads.split() == [
        *("processors", "threads", "median", "p90", "p99", "slowest", "onnxruntime", "ratio")
    ]
    assert row.split()[:2] == ["0", "1"]
    assert row.split()[3:5] == ["-", "-"]
    assert what.startswith("in ms, of 5 inferences each; a ratio below 1 is faster than onnxru")
    assert max(map(len, (heads, row, what, *rest))) <= 80


def test_tvms_own_server_tells_times_only(bundle: Path, stock: int) -> None:
    place = ("--device", f"{HOST}:{stock}")
    found = document(mbv3c("bench", bundle, *place, "--runs", 6, "--threads", 1, "--json"))
    (row,) = found["configurations"]
    assert (row["cluster"], row["cpus"], row["theirs"]) == ("big", [], None)
    assert row["ours"]["spread"]["runs"] == 6
    assert row["ours"]["memory_bytes"] is row["undisturbed"] is row["mhz"] is None
    assert found["machine"] is found["sustained"] is None
    assert found["versions"] == {}
    assert "its server is TVM's own" in found["missing"][0]
    refused = mbv3c("bench", bundle, *place, "--minutes", 1)
    assert refused.returncode == 2
    assert "--minutes needs `mbv3c device serve` on the device" in refused.stderr


def _asked(folder: Path, **given: Any) -> dict[str, Any]:
    np.save(folder / "input.npy", X)
    return {
        "bundle": str(folder),
        "library": str(folder / "model.so"),
        "model": None,
        "input": str(folder / "input.npy"),
        "entry": "main",
        "cores": 1,
        "pin": None,
        "threads": None,
        "runs": 3,
        "minutes": 0.0,
        **given,
    }


def _runner(device: Served, seconds: float = 20.0) -> RpcRunner:
    return RpcRunner(Place(Address(HOST, device.port)), seconds=seconds)


def test_a_library_that_does_not_open(device: Served, tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"\x7fELF no library")
    with pytest.raises(
        ToolError, match=r"failed \(opening the library\): .*library failed on the"
    ):
        _runner(device).bench(_asked(tmp_path), 0)


def test_a_model_that_onnxruntime_does_not_open(
    device: Served, network: Path, tmp_path: Path
) -> None:
    shutil.copy(network / "model.so", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    asked = _asked(tmp_path, model=str(tmp_path / "model.onnx"))
    with pytest.raises(ToolError, match=r"opening the model in onnxruntime.*onnxruntime failed"):
        _runner(device).bench(asked, 0)


def test_a_library_that_hangs_ends_the_session(device: Served, endless: Path) -> None:
    with pytest.raises(ToolError, match=r"did not answer within \d+ s \(opening the library\)"):
        _runner(device, seconds=5.0).bench(_asked(endless), 0)
    device.await_line("its client is gone")
    _runner(device).look()


def test_what_only_the_device_knows_is_refused_too(bundle: Path, device: Served) -> None:
    done = mbv3c("bench", bundle, "--device", device.address, "--pin", "4000", "--json")
    error = document(done, code=2)["error"]
    assert error["kind"] == "usage"
    assert "--pin 4000: the device has no such processors; it has " in error["message"]


def test_what_belongs_to_a_device_is_refused_here(bundle: Path) -> None:
    done = mbv3c("bench", bundle, "--pin", 1, "--minutes", 1)
    assert done.returncode == 2
    assert "--pin and --minutes belong to --device or --tracker" in done.stderr


def test_a_runtime_from_a_package_of_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board with a GPU has onnxruntime-gpu; what no package brought has no version."""
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"onnxruntime": ["mbv3c"]})
    assert Bench(str, tmp_path).look()["runtimes"] == {"onnxruntime": version("mbv3c")}
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    assert Bench(str, tmp_path).look()["runtimes"] == {}


def test_a_long_run_that_is_very_short(device: Served, network: Path, tmp_path: Path) -> None:
    shutil.copy(network / "model.so", tmp_path)
    found = _runner(device).bench(_asked(tmp_path, minutes=1e-12), 0)
    assert len(found["sustained"]["windows"]) == 1


def test_it_is_measured_beside_nothing(bundle: Path, device: Served) -> None:
    options = ("--device", device.address, "--runs", 1, "--against", "none", "--json")
    found = document(mbv3c("bench", bundle, *options))
    assert found["versions"] == {}
    assert all(row["theirs"] is None for row in found["configurations"])
    assert not any("onnxruntime" in text for text in found["missing"])
