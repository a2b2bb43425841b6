"""Tuning on served devices that hang, die and come back; one of them an emulated board."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import DeviceNeeds
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.device.pool import DevicesGoneError, Patience
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.passes import run_pipeline
from mbv3c.pipeline import tune_model
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import HOST_CPU, CpuTarget
from mbv3c.targets.library.target import resolve
from mbv3c.tuning.contest import Contest, TunableKernels
from mbv3c.tuning.database import Database, Task, tasks_of
from mbv3c.tuning.device_meter import DeviceMeter, one_at_a_time, opened
from mbv3c.tuning.meters import ContestTimeoutError
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.tuner import Event, Tuner
from tests.command_line import mbv3c, mbv3c_process
from tests.execution.device import boards, libraries
from tests.execution.device.serving import HOST, Served, end, free_port, served, tracked

HERE = resolve(HOST_CPU)
A76 = BACKEND.wing.find("arm_cpu", "cortex-a76")
HASTY = Patience(silence=8.0, first_pause=1.0, last_pause=4.0, wait=300.0)


class EnoughError(Exception):
    """What a test waited for happened."""


@pytest.fixture(scope="module")
def no_opencl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    empty = tmp_path_factory.mktemp("empty")
    return {"MBV3C_CACHE": str(empty / "cache"), "OCL_ICD_VENDORS": str(empty)}


@pytest.fixture(scope="module")
def device(
    tmp_path_factory: pytest.TempPathFactory, no_opencl: dict[str, str]
) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("device"), environment=no_opencl) as one:
        yield one


def direct(port: int, seconds: float = 60.0) -> Place:
    return Place(Address(HOST, port), seconds=seconds)


def needs_of(target: CpuTarget) -> DeviceNeeds:
    return DeviceNeeds(target.name, target.triple, target.cpu, opencl=False)


def tasks_for(model: onnx.ModelProto, target: CpuTarget) -> tuple[list[Task], TunableKernels]:
    tasks = tasks_of([BACKEND.lower_graph(run_pipeline(model)[0], Job(target)).plan])
    return sorted(tasks, key=lambda task: -task.step.madds), BACKEND.kernels(target)


def words(events: list[Event], kind: str) -> list[Event]:
    return [one for one in events if one["event"] == kind]


@pytest.fixture
def runner(blocks: onnx.ModelProto, device: Served) -> Iterator[DeviceMeter]:
    tasks, kernels = tasks_for(blocks, HERE)
    with opened(needs_of(HERE), direct(device.port, 3), lambda event: None, HASTY) as one:
        one.prove_with(tasks[-1], kernels)
        yield one


def contest(folder: Path) -> Contest:
    (folder / GOLDEN_INPUT).parent.mkdir(exist_ok=True)
    np.save(folder / GOLDEN_INPUT, libraries.X)
    return Contest(folder, ("kernel",), (0,))


def test_a_bad_candidate_is_no_bad_device(runner: DeviceMeter, tmp_path: Path) -> None:
    """It fails twice after the default kernel ran; the device runs that kernel a third time."""
    libraries.build_endless(tmp_path / LIBRARY)
    start = time.monotonic()
    with pytest.raises(
        ContestTimeoutError, match=r"did not answer within 3 s \(running the candidates\)"
    ):
        runner.measure(contest(tmp_path), 120)
    assert time.monotonic() - start < 60
    (board,) = runner.pool.boards
    assert (board.faults, board.aside) == (0, False)


def test_a_library_that_does_not_load_is_no_bad_device(
    runner: DeviceMeter, tmp_path: Path
) -> None:
    (tmp_path / LIBRARY).write_bytes(b"\x7fELF no library")
    with pytest.raises(ToolError, match=r"failed \(loading the candidates\)"):
        runner.measure(contest(tmp_path), 120)
    assert not runner.pool.boards[0].aside


def test_a_network_is_tuned_on_a_device(little_file: Path, device: Served, tmp_path: Path) -> None:
    """From the command line, to the whole network, before and after, in one session."""
    done = mbv3c_process(
        *("tune", little_file, "--target", "host_cpu", "--runner", "rpc"),
        *("--device", device.address, "--trials", 6, "--database", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert f"device {device.address}, one thread" in done.stdout
    (folder,) = (tmp_path / "host_cpu").iterdir()
    records = Database(folder).records()
    assert sum(one.outcome == "ok" for one in records) >= 6
    assert '"architecture"' in (folder / "meta.json").read_text()
    assert f'"address": "{device.address}"' in (folder / "meta.json").read_text()


@pytest.mark.parametrize("trials", [4, 26])
def test_emulated_board_is_killed_and_comes_back(
    trials: int,
    blocks: onnx.ModelProto,
    emulator_kit: EmulatorKit,
    no_opencl: dict[str, str],
    tmp_path: Path,
) -> None:
    """Kill the server in the middle of a contest, start it again; no record is a failure.

    `trials` is of each of two kernels.
    """
    port, events = free_port(), list[Event]()
    python = boards.board_python(emulator_kit, boards.provide_board(), "cortex-a76")
    tasks, kernels = tasks_for(blocks, A76)
    again: list[Any] = []

    def serve() -> Any:
        folder = tempfile.mkdtemp(dir=tmp_path)
        return served(Path(folder), "--port", port, environment=no_opencl, python=python)

    with serve() as first:

        def kill() -> None:
            while not first.sessions():
                time.sleep(0.05)
            time.sleep(1)
            end(first.process)
            time.sleep(2)
            again.append(serve())
            again[0].__enter__()

        killer = threading.Thread(target=kill)

        def report(event: Event) -> None:
            events.append(event)
            if event["event"] == "batch" and not killer.ident:
                killer.start()

        try:
            with opened(needs_of(A76), direct(port, 20), one_at_a_time(report), HASTY) as runner:
                assert "cortex-a76 (aarch64, " in runner.description
                runner.prove_with(tasks[-1], kernels)
                tuner = Tuner(kernels, runner, Database(tmp_path / "logs"), report)
                for task in tasks[:2]:
                    outcome = tuner.run([task], Budget(trials), 0)
                    assert outcome.trials == trials
        finally:
            killer.join()
            for one in again:
                one.__exit__(None, None, None)
    assert words(events, "device-aside")
    assert words(events, "device-back")
    records = Database(tmp_path / "logs").records()
    assert {one.outcome for one in records} == {"ok"}
    assert len(records) == 2 * (trials + 1)


def _signal(device: Served, number: signal.Signals) -> None:
    """Stop or continue a server and its session."""
    sessions = device.sessions() if number == signal.SIGSTOP else getattr(device, "stopped", [])
    device.stopped = sessions  # type: ignore[attr-defined]
    for group in (device.process.pid, *sessions):
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def test_one_of_two_hangs_and_returns(
    blocks: onnx.ModelProto, no_opencl: dict[str, str], tmp_path: Path
) -> None:
    """Stop one of two devices in the middle: the other goes on, and it is taken back later."""
    events, after = list[Event](), list[Event]()
    port = free_port()
    for name in ("tracker", "one", "two"):
        (tmp_path / name).mkdir()
    options = ("--tracker", f"{HOST}:{port}", "--key", "board")
    tasks, kernels = tasks_for(blocks, HERE)
    with (
        tracked(tmp_path / "tracker", port),
        served(tmp_path / "one", *options, environment=no_opencl) as one,
        served(tmp_path / "two", *options, environment=no_opencl) as two,
    ):
        for each in (one, two):
            each.await_line("registered as 'board'")

        def report(event: Event) -> None:
            events.append(event)
            kinds = [each["event"] for each in events]
            batches = event["event"] == "batch"
            if batches and kinds.count("batch") == 1:
                _signal(two, signal.SIGSTOP)
            if batches and "device-aside" in kinds:
                after.append(event)
                if len(after) == 2:
                    _signal(two, signal.SIGCONT)
            if batches and "device-back" in kinds:
                raise EnoughError

        place = Place(Address(HOST, port), tracked=True, key="board", seconds=10)
        told = one_at_a_time(report)
        with opened(needs_of(HERE), place, told, HASTY) as runner:
            assert runner.slots == 3
            runner.prove_with(tasks[-1], kernels)
            tuner = Tuner(kernels, runner, Database(tmp_path / "logs"), told)
            with pytest.raises(EnoughError):
                tuner.run(tasks, Budget(patience=100), 0)
    changes = [
        (each["event"], each["device"].endswith(two.address))
        for each in events
        if each["event"] in ("device-aside", "device-back")
    ]
    assert changes == [("device-aside", True), ("device-back", True)], events
    assert len(after) >= 2
    records = Database(tmp_path / "logs").records()
    assert {one.outcome for one in records} == {"ok"}
    assert len({(each.key, str(each.knobs)) for each in records}) == len(records)


def test_without_devices_it_ends_and_names_them(
    blocks: onnx.ModelProto, no_opencl: dict[str, str], tmp_path: Path
) -> None:
    tasks, kernels = tasks_for(blocks, HERE)
    database, events = Database(tmp_path / "logs"), list[Event]()
    brief = Patience(first_pause=0.5, last_pause=1.0, wait=8.0)
    with served(tmp_path, environment=no_opencl) as one:

        def report(event: Event) -> None:
            events.append(event)
            if event["event"] == "batch":
                end(one.process)

        with opened(needs_of(HERE), direct(one.port, 5), report, brief) as runner:
            runner.prove_with(tasks[-1], kernels)
            tuner = Tuner(kernels, runner, database, report)
            with pytest.raises(DevicesGoneError, match=rf"for 8 s \(.* at {one.address}: .*noth"):
                tuner.run(tasks, Budget(patience=100), 0)
    assert words(events, "devices-gone")
    records = database.records()
    assert records
    assert {each.outcome for each in records} == {"ok"}


def test_another_architecture_is_refused(device: Served) -> None:
    other = A76 if HERE.arch != "aarch64" else BACKEND.wing.find("host_cpu", "avx2")
    with (
        pytest.raises(UsageError, match=f"{other.name} is for {other.arch}, and "),
        opened(needs_of(other), direct(device.port, 5), lambda event: None),
    ):
        pass


def test_wrong_options_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    for options, message in (
        (("--runner", "magic"), "unknown runner 'magic'; known: local, emulated, estimated, rpc"),
        (("--runner", "rpc"), "--runner rpc needs a device"),
        (("--runner", "local", "--device", "127.0.0.1:9"), "--runner local measures here"),
        (("--tracker", "127.0.0.1:9"), "--tracker needs --key"),
        (("--timeout", 5), "--timeout belongs to --device or --tracker"),
    ):
        done = mbv3c("tune", "--target", "host_cpu", "--database", tmp_path, *options)
        assert done.returncode == 2
        assert message in done.stderr
        assert "building the graph" not in done.stderr
    for runner in (None, "rpc"):
        BACKEND.check_tuning(Job(HOST_CPU), TuneRequest(tmp_path, runner, place=direct(9)))


def test_tuning_again_on_another_device_measures_nothing_twice(
    blocks: onnx.ModelProto, device: Served, tmp_path: Path
) -> None:
    request = TuneRequest(tmp_path, trials=6, place=direct(device.port, 20))
    for _ in range(2):
        tune_model(blocks, Job(HOST_CPU), request, lambda event: None)
    (folder,) = (tmp_path / "host_cpu").iterdir()
    records = [one for one in Database(folder).records() if not one.kept]
    assert len({(one.key, str(one.knobs)) for one in records}) == len(records) >= 12
