"""`mbv3c tune` from the command line: files in and out, and what is refused."""

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest

from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.passes import run_pipeline
from mbv3c.speed.profile import rebuild
from mbv3c.targets import open_bundle
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import HOST_CPU
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.target import resolve
from mbv3c.tuning.database import META, RECORDS, Database, Record, folder_for, key_of, tasks_of
from tests.command_line import Done, command_line, document, mbv3c
from tests.onnx_text import graph, random

A76 = BACKEND.kernels(BACKEND.wing.find("arm_cpu", "cortex-a76"))
RECORD = Record("{}", {"rows": 1}, "ok", 90.0, 100.0, kept=True)


def tune(*arguments: object) -> Done:
    return mbv3c("tune", *arguments)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    database = Database(tmp_path / "logs" / "arm_cpu" / "cortex-a76")
    database.open(A76.measured_on.context("instructions"), {"seed": 0})
    database.append([RECORD])
    return tmp_path / "logs"


def test_status_says_what_is_there(logs: Path) -> None:
    done = tune("--target", "arm_cpu", "--database", logs, "--status")
    assert done.returncode == 0
    assert "1 records of 1 kernels (1 ok); 1 tuned" in done.stdout
    none = tune("--target", "arm_cpu:cortex-a55", "--database", logs, "--status")
    assert "nothing was measured" in none.stdout


def test_records_travel_in_a_file(logs: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert tune("--target", "arm_cpu", "--database", logs, "--export", file).returncode == 0
    other = tmp_path / "other"
    done = tune("--target", "arm_cpu", "--database", other, "--import", file, "--status")
    assert "1 of 1 records added" in done.stdout
    assert Database(other / "arm_cpu" / "cortex-a76").records() == [RECORD]
    again = tune("--target", "arm_cpu", "--database", other, "--import", file)
    assert "0 of 1 records added" in again.stdout


def test_records_of_another_device_are_refused(logs: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    tune("--target", "arm_cpu", "--database", logs, "--export", file)
    done = tune("--target", "arm_cpu:cortex-a55", "--database", logs, "--import", file)
    assert done.returncode != 0
    assert "was measured for arm_cpu:cortex-a76" in done.stderr
    assert not (logs / "arm_cpu" / "cortex-a55" / RECORDS).exists()


@pytest.mark.parametrize("text", ["", "{", '{"context": {}, "records": []}', "[1]"])
def test_a_file_that_is_none_of_ours_is_refused(text: str, logs: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    before = (logs / "arm_cpu" / "cortex-a76" / RECORDS).read_bytes()
    done = tune("--target", "arm_cpu", "--database", logs, "--import", file)
    assert "is no exported tuning database" in done.stderr
    assert (logs / "arm_cpu" / "cortex-a76" / RECORDS).read_bytes() == before


def test_stale_records_are_pruned_and_good_ones_stay(logs: Path) -> None:
    folder = logs / "arm_cpu" / "cortex-a76"
    done = tune("--target", "arm_cpu", "--database", logs, "--prune")
    assert "nothing to prune" in done.stdout
    meta = json.loads((folder / META).read_text())
    meta["context"]["kernels"] = 0
    (folder / META).write_text(json.dumps(meta))
    done = tune("--target", "arm_cpu", "--database", logs, "--prune", "--status")
    assert "1 records of arm_cpu:cortex-a76 (kernels 0" in done.stdout
    assert "nothing was measured" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "mobile_gpu", "--runner", "emulated"],
            "--runner emulated is not for mobile_gpu:mali",
        ),
        (["--target", "mobile_gpu:metal", "--runner", "local"], "does not run on this machine"),
        (["--target", "mobile_gpu:metal", "--runner", "rpc"], "--runner rpc needs a device"),
        (
            ["--target", "host_cpu", "--runner", "estimated"],
            "nothing here emulates host_cpu:native",
        ),
        (["--target", "arm_cpx"], "unknown target 'arm_cpx'"),
        (["--target", "arm_cpu", "--precision", "fp8"], "unknown precision 'fp8'"),
        (
            ["--target", "arm_cpu:cortex-a72", "--precision", "fp16"],
            "arm_cpu:cortex-a72 does not compute in fp16",
        ),
        (["--target", "arm_cpu", "--calibration", "/"], "--calibration is for --precision int8"),
        (
            ["--target", "arm_cpu", "--precision", "int8", "--calibration", "x"],
            "no such folder: x",
        ),
        (["--target", "arm_cpu", "--keep-float", "1"], "--keep-float is for --precision int8"),
        (
            ["--target", "arm_cpu", "--precision", "fp16", "--keep-float", "none.*"],
            "--keep-float 'none.*' matches no layer",
        ),
        (
            ["--target", "arm_cpu", "--sram", "512", "--force"],
            "--sram is for --target npu only",
        ),
        (["--target", "arm_cpu", "--trials", "0"], "--trials and --minutes must be above 0"),
        (["--target", "arm_cpu", "--minutes", "-1"], "--trials and --minutes must be above 0"),
        (["--target", "arm_cpu", "--patience", "0"], "--patience 0 is not possible"),
        (["--target", "arm_cpu", "--jobs", "0"], "--jobs 0: give a whole number from 1 on"),
        (["--target", "arm_cpu", "--store", "x"], "give --cluster or --jobs, too"),
        (["--target", "host_cpu", "--cluster", "local"], "host_cpu:native is timed, here"),
        (["--target", "arm_cpu", "--runner", "remote"], "unknown runner 'remote'"),
        (["--target", "arm_cpu", "--import", "none.json"], "no such file: none.json"),
        (["--target", "arm_cpu", "--export", "x.json"], "holds nothing to export"),
    ],
)
def test_wrong_usage_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--variant", "small", "--width", "0.35", "--resolution", "96"]
    done = tune(*arguments, *small)
    assert message in done.stderr
    assert done.returncode == 2
    assert not any(tmp_path.iterdir())


def test_an_estimate_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--variant", "small", "--width", "0.35", "--resolution", "96"]
    done = tune("--target", "mobile_gpu:adreno", "--runner", "estimated", *small)
    assert done.returncode == 0
    assert "nothing was measured" in done.stdout
    assert "estimating finds nothing better" in done.stdout
    asked = tune("--target", "mobile_gpu:adreno", "--runner", "estimated", *small, "--json")
    found = document(asked)
    events = [json.loads(line) for line in asked.stderr.splitlines()]
    assert events[0] == {"event": "step", "text": "building the graph"}
    assert (found["kept"], found["network"]) == (0, None)
    assert "compared with no GPU" in found["runner"]
    assert {one["best_relative"] for one in found["tasks"]} == {1.0}
    assert not any(tmp_path.iterdir())


def test_compile_uses_what_was_measured_of_a_similar_kernel(
    blocks: onnx.ModelProto, blocks_file: Path, tmp_path: Path
) -> None:
    host = resolve(HOST_CPU)
    kernels = BACKEND.kernels(host)
    plan = BACKEND.lower_graph(run_pipeline(blocks)[0], Job(host)).plan
    (task,) = (one for one in tasks_of([plan]) if one.kind == "global_pool")
    default = kernels.default(task)
    other = next(tile for tile in kernels.legal(task) if tile != default)
    database = Database(folder_for(tmp_path / "logs", kernels.measured_on.device))
    database.open(kernels.measured_on.context("us"), {})
    key = key_of("global_pool", replace(task.shape, channels=task.shape.channels + 8))
    database.append(
        [
            Record(key, asdict(default), "ok", 100.0, 100.0),
            Record(key, asdict(other), "ok", 80.0, 100.0, kept=True),
        ]
    )
    path = tmp_path / "bundle"
    options = ["--target", "host_cpu", "--tune-logs", tmp_path / "logs", "-o", path]
    done = mbv3c("compile", blocks_file, *options)
    assert done.returncode == 0, done.stderr
    counted = len([step for step in plan.steps if step.origin]) - 1
    assert f"kernels: 0 tuned, 1 transferred, {counted} by default rules" in done.stdout
    assert "parity: passed" in done.stdout
    listed = [{"key": task.key, "knobs": asdict(other), "origin": "transferred"}]
    bundle = open_bundle(path)
    assert json.loads((path / "manifest.json").read_text())["tuned_kernels"] == listed
    origins = [kernel.origin for kernel in manifest_of(bundle).kernels]
    with rebuild(bundle) as rebuilt:
        assert [call.step.origin or None for call in rebuilt.calls] == origins
        assert [one.step.knobs for one in rebuilt.calls if one.step.origin == "transferred"] == [
            asdict(other)
        ]


@pytest.mark.parametrize("more", [[], ["--cluster", "local"]], ids=["processes", "cluster"])
def test_in_jobs_of_which_one_is_killed_it_finds_what_it_finds_alone(
    more: list[str], emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    model = graph(
        """g (float[1, 8, 4, 4] x) => (float[1, 8] y) {
            a = GlobalAveragePool(x)
            b = Flatten(a)
            c = Gemm<transB = 1>(b, first)
            d = Relu(c)
            y = Gemm<transB = 1>(d, second)
        }""",
        first=random(24, 8),
        second=random(8, 24),
    )
    onnx.save(model, tmp_path / "model.onnx")
    given = ("tune", tmp_path / "model.onnx", "--target", "arm_cpu", "--trials", 14)
    alone = mbv3c(*given, "--database", tmp_path / "alone")
    store = tmp_path / "store"
    said = tmp_path / "said"
    options = ("--database", tmp_path / "logs", "--jobs", 2, "--store", store)
    command = command_line(*given, *options, *more)
    with said.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while not (jobs := below(store / "attempts")):
            assert process.poll() is None, said.read_text()
            time.sleep(0.05)
        os.kill(jobs[0], signal.SIGKILL)
    assert process.returncode == 0, said.read_text()
    wanted, got = (
        (tmp_path / name / "arm_cpu" / "cortex-a76" / RECORDS).read_bytes()
        for name in ("alone", "logs")
    )
    assert got == wanted
    lines = alone.stdout.splitlines()
    assert said.read_text().splitlines()[-len(lines) :][:-1] == lines[:-1]
    if not more:
        assert "died; trying again" in said.read_text()
    assert not list((store / "attempts").iterdir())


def below(attempts: Path) -> list[int]:
    """Return the processes that are at work in a folder of attempts."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if str(attempts).encode() in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except (OSError, ValueError):
            continue
    return found
