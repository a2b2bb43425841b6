"""A search with real kernels: on this machine, and counted on the emulated one."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from mbv3c.errors import ToolError
from mbv3c.execution.emulator.cycles import CYCLES, Estimator
from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.emulator.llvm import Llvm
from mbv3c.execution.timing.processors import choose_cpus
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Target
from mbv3c.lowering.kernels import Choices
from mbv3c.lowering.schedules.epilogue import HARD_SIGMOID, HARD_SWISH, RELU
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.lowering.shapes import Convolution, Depthwise, GlobalPool, Pointwise
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu import kernels
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.cores import CORES, machine
from mbv3c.targets.cpu.lower import lower
from mbv3c.targets.cpu.processor import Processor
from mbv3c.targets.cpu.schedules import pooling
from mbv3c.targets.cpu.schedules.integer.arithmetic import Requantization
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite
from mbv3c.targets.table import find_target
from mbv3c.tuning.choices import device_of, measured
from mbv3c.tuning.contest import Contest, write_contest
from mbv3c.tuning.database import RECORDS, Database, DatabaseError, Record, folder_for
from mbv3c.tuning.meters import (
    INSTRUCTIONS,
    ContestResult,
    ContestTimeoutError,
    CountingMeter,
    LocalMeter,
    Meter,
)
from mbv3c.tuning.session import summary_lines, tune_network
from mbv3c.tuning.tasks import Task, tasks_of
from mbv3c.tuning.tuner import Budget, Event, NothingMeasuredError, Tuner
from tests.command_line import command_line

HOST = cpu.resolve(find_target("host_cpu"))
A76 = find_target("arm_cpu:cortex-a76")
AVX512 = replace(CORES["cortex-a76"], vector_bytes=64, lane_operands=False, partial_cost=0.5)
VNNI = replace(AVX512, integers="vnni")
DIGEST = (1, "35fccff17695d31b")


@pytest.fixture(scope="module")
def tiny() -> onnx.ModelProto:
    return build_model(ModelSpec("small", width=0.35, resolution=96, classes=10))


def tasks_for(model: onnx.ModelProto, target: Target) -> tuple[list[Task], Processor]:
    tvm_target = cpu.tvm_target(target)
    cores = machine(target, tvm_target)
    lowered = lower(run_pipeline(model)[0], cores, tvm_target)
    return tasks_of([lowered.plan]), cores


def silent(event: Event) -> None:
    pass


@dataclass
class Faulty:
    """Holds contests on this machine, and lets some of them fail.

    Attributes:
        inner: who really measures.
        fault: given the number of candidates, says what happens: "", or an outcome.
    """

    inner: Meter
    fault: str
    victim: int  # the candidate that is at fault, by its place among those ever seen
    seen: list[str] = field(default_factory=list)

    unit = "us"
    slots = 1
    description = "this machine, with faults"

    def measure(self, contest: Contest, timeout: float) -> ContestResult:
        hit = len(contest.candidates) == self.victim
        if hit and self.fault == "timeout":
            raise ContestTimeoutError("no answer")
        if hit and self.fault == "run":
            raise ToolError("it fell over")
        result = self.inner.measure(contest, timeout)
        if self.fault == "wrong":
            outputs = [result.outputs[0], *(one + 1 for one in result.outputs[1:])]
            return ContestResult(result.costs, outputs)
        return result


def tuner(runner: Meter, cores: Processor, target: Target, folder: Path) -> Tuner:
    return Tuner(cores, target, runner, Database(folder), silent)


def local() -> LocalMeter:
    return LocalMeter(tuple(choose_cpus(1)))


def test_every_kind_of_kernel_holds_a_contest(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, cores = tasks_for(tiny, HOST)
    kinds = {task.kind: task for task in tasks}
    assert set(kinds) == {kind for kind in kernels.SCHEDULES if not kind.startswith("integer_")}
    budget = Budget(trials=2, patience=1)
    one = tuner(local(), cores, HOST, tmp_path)
    for task in kinds.values():
        outcome = one.run([task], budget, 0)
        assert outcome.trials == 2
        assert not outcome.failures
    records = Database(tmp_path).records()
    assert {json.loads(record.key)["kind"] for record in records} == set(kinds)
    assert all(record.cost and record.baseline for record in records)


@pytest.mark.parametrize("fault", ["run", "timeout"])
def test_a_failing_contest_is_halved(fault: str, tiny: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, cores = tasks_for(tiny, HOST)
    faulty = Faulty(local(), fault, victim=5)  # the default and four others
    outcome = tuner(faulty, cores, HOST, tmp_path).run(tasks[:1], Budget(trials=4), 0)
    assert outcome.trials == 4
    assert not outcome.failures  # no candidate is at fault by itself
    assert len(Database(tmp_path).records()) == 5


def test_a_culprit_is_found_and_counted(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, cores = tasks_for(tiny, HOST)
    faulty = Faulty(local(), "timeout", victim=2)  # whoever is alone with the default
    with pytest.raises(NothingMeasuredError, match="timeout: no answer"):
        tuner(faulty, cores, HOST, tmp_path).run(tasks[1:2], Budget(trials=1), 0)
    outcomes = [record.outcome for record in Database(tmp_path).records()]
    assert outcomes == ["timeout"]


def test_a_wrong_result_never_wins(tiny: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, cores = tasks_for(tiny, HOST)
    faulty = Faulty(local(), "wrong", victim=0)
    with pytest.raises(NothingMeasuredError, match="wrong"):
        tuner(faulty, cores, HOST, tmp_path).run(tasks[:1], Budget(trials=6), 0)
    records = Database(tmp_path).records()
    assert [one.outcome for one in records].count("wrong") == 6
    assert not any(one.kept for one in records)


@pytest.mark.parametrize("unit", [INSTRUCTIONS, CYCLES])
def test_counted_searches_are_the_same_each_time(
    unit: str, tiny: onnx.ModelProto, emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    tasks, cores = tasks_for(tiny, A76)
    chosen = [task for task in tasks if task.kind in ("pointwise", "depthwise")][:2]
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        runner = CountingMeter(emulator_kit, "cortex-a76", unit, Estimator(llvm, "neoverse-n1"))
        outcome = tuner(runner, cores, A76, folder).run(chosen, Budget(trials=16), 3)
        assert outcome.trials == 16
        contents.append((folder / RECORDS).read_bytes())
    assert contents[0] == contents[1]


def test_counting_takes_only_so_long(
    tiny: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    tasks, cores = tasks_for(tiny, A76)
    tile = kernels.SCHEDULES[tasks[0].kind].default(tasks[0].shape, cores)
    contest = write_contest(tasks[0], [tile], cores, A76, tmp_path)
    runner = CountingMeter(emulator_kit, "cortex-a76")
    with pytest.raises(ContestTimeoutError, match="not counted within 0 s"):
        runner.measure(contest, 0.01)


def test_tuning_a_network_keeps_what_helps_and_compile_uses_it(
    tiny: onnx.ModelProto, emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    tuned = tune_network(tiny, A76, tmp_path, "emulated", Budget(trials=24), 0, silent)
    assert tuned.outcome.trials == 24
    assert tuned.network is not None
    assert tuned.network.ratio < 1
    assert [one.unit for one in tuned.network.beside] == [CYCLES]
    assert tuned.kept
    choices = measured(A76, [tmp_path])
    cores = CORES["cortex-a76"]
    optimized, target = run_pipeline(tiny)[0], cpu.tvm_target(A76)
    lowered = lower(optimized, replace(cores, cores=A76.cores), target, choices=choices)
    origins = [step.origin for step in lowered.plan.steps if step.origin]
    assert origins.count("tuned") >= len(tuned.kept)


def test_tuning_by_estimated_cycles_keeps_what_takes_fewer(
    tiny: onnx.ModelProto, emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    a55 = find_target("arm_cpu:cortex-a55")
    tuned = tune_network(tiny, a55, tmp_path, "estimated", Budget(trials=12), 0, silent)
    assert tuned.runner == (
        "emulated cortex-a76, one thread, estimated cycles by "
        f"llvm-mca {llvm.version} with the model of cortex-a55"
    )
    assert tuned.network is not None
    assert tuned.network.unit == CYCLES
    assert tuned.network.after < tuned.network.before
    assert [one.unit for one in tuned.network.beside] == [INSTRUCTIONS]
    assert tuned.kept
    assert "estimated cycles, ratio 0." in "\n".join(summary_lines(tuned))
    with pytest.raises(DatabaseError, match=r"estimated cycles\), and this is .* instructions\)"):
        tune_network(tiny, a55, tmp_path, "emulated", Budget(trials=1), 0, silent)


def test_without_llvm_mca_nothing_is_estimated(
    tiny: onnx.ModelProto,
    emulator_kit: EmulatorKit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    name = emulator_kit.system.parent.name
    (cache / name).symlink_to(emulator_kit.system.parent)
    monkeypatch.setenv("MBV3C_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="llvm-mca, which estimates cycles, is not here"):
        tune_network(tiny, A76, tmp_path, "estimated", Budget(trials=1), 0, silent)


class Chosen(Choices):
    """Chooses the same knobs for every kernel."""

    def __init__(self, knobs: dict[str, Any]) -> None:
        self.knobs = knobs

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self.knobs


@pytest.mark.parametrize(
    "knobs", [{"vectors": 1000}, {"vectors": 2, "rows": 1}, {}], ids=["large", "other", "none"]
)
def test_choices_that_are_not_legal_here_are_not_used(knobs: dict[str, Any]) -> None:
    shape, cores = GlobalPool(1, 49, 64), CORES["cortex-a76"]
    kernel = kernels.CpuKernels(cores, Chosen(knobs)).global_pool(shape)
    assert (kernel.knobs, kernel.origin) == (pooling.default(shape, cores), "default")


def test_choices_that_are_legal_are_used() -> None:
    shape, cores = GlobalPool(1, 49, 64), CORES["cortex-a76"]
    kernel = kernels.CpuKernels(cores, Chosen({"vectors": 3})).global_pool(shape)
    assert (kernel.knobs, kernel.origin) == (pooling.Tile(3), "tuned")


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    """Kill a search without warning at five random moments; the sixth run ends by itself.

    What was written stays, and nothing is measured twice.
    """
    logs = tmp_path / "logs"
    command = command_line(
        *("tune", "--target", "host_cpu", "--variant", "small", "--width", "0.35"),
        *("--resolution", "96", "--database", logs, "--trials"),
    )
    path = folder_for(logs, device_of(find_target("host_cpu"))) / RECORDS
    moments = random.Random(time.time_ns())
    before: Sequence[Record] = ()
    for _ in range(5):
        size = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen(
            [*command, "400"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while not (path.exists() and path.stat().st_size > size):
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        with path.open("ab") as file:  # the last write, torn
            file.write(b'{"key": "half of a rec')
        records = Database(path.parent).records()
        assert list(records[: len(before)]) == list(before)
        assert len(records) > len(before)
        before = records
    assert Database(path.parent).torn()
    done = subprocess.run([*command, "6"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the last record was only half written, and is dropped" in done.stderr
    database = Database(path.parent)
    assert not database.torn()
    records = database.records()
    assert list(records[: len(before)]) == list(before)
    trials = [one for one in records if not one.kept]
    assert len({(one.key, str(one.knobs)) for one in trials}) == len(trials)
    assert len(trials) >= len(before) + 6


def test_kernels_count_up_their_version_when_their_code_changes() -> None:
    """If a kernel's code was changed on purpose: count `kernels.VERSION` up, and mend DIGEST."""
    axis, three = Axis(14, 5, 2, 1, 2, 2), Axis(14, 3, 1, 1, 1, 1)
    shapes: tuple[tuple[str, Any], ...] = (
        ("pointwise", Pointwise(196, 40, 240, HARD_SWISH, residual=True)),
        ("depthwise", Depthwise(1, 72, axis, axis, HARD_SWISH)),
        ("convolution", Convolution(1, 3, 16, axis, axis, HARD_SWISH, channels_first=True)),
        ("squeeze_excite", SqueezeExcite(1, 49, 96, 24, RELU, HARD_SIGMOID)),
        ("global_pool", GlobalPool(1, 49, 576)),
        ("integer_pointwise", IntegerPointwise(196, 42, 120, Requantization(3, lookup=True))),
        ("integer_depthwise", IntegerDepthwise(1, 72, axis, axis, -3, Requantization(-128))),
        ("integer_depthwise", IntegerDepthwise(1, 72, three, three, -3, Requantization(0, 0, 90))),
        ("integer_convolution", IntegerConvolution(1, 4, 16, three, three, 5, Requantization(1))),
    )
    text = ""
    for kind, shape in shapes:
        schedule = kernels.SCHEDULES[kind]
        for cores in (CORES["cortex-a76"], VNNI if kind.startswith("integer_") else AVX512):
            tile = schedule.legal(shape, cores)[-1]
            text += schedule.generate(shape, tile, cores).script()
    assert (kernels.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == DIGEST
