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
from mbv3c.execution.timing.latency import choose_cpus
from mbv3c.job import Job
from mbv3c.lowering.plan import Choices, Convolution, Depthwise, GlobalPool, Pointwise
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, RELU
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.passes import run_pipeline
from mbv3c.pipeline import tune_model
from mbv3c.targets.cpu import kernels
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.cores import CORES
from mbv3c.targets.cpu.devices import HOST_CPU, CpuTarget
from mbv3c.targets.cpu.schedules import pooling
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.cpu.schedules.squeeze_excite import SqueezeExcite
from mbv3c.targets.library.building import best_known
from mbv3c.targets.library.target import resolve
from mbv3c.tuning.contest import Contest, TunableKernels, write_contest
from mbv3c.tuning.database import (
    RECORDS,
    Database,
    DatabaseError,
    Record,
    Task,
    folder_for,
    tasks_of,
)
from mbv3c.tuning.meters import (
    INSTRUCTIONS,
    ContestResult,
    ContestTimeoutError,
    CountingMeter,
    LocalMeter,
    Meter,
)
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.session import TunedNetwork, summary_lines
from mbv3c.tuning.tuner import Event, NothingMeasuredError, Tuner
from tests.command_line import command_line
from tests.onnx_text import graph
from tests.onnx_text import random as normal

HOST = resolve(HOST_CPU)
A76, A55 = (BACKEND.wing.find("arm_cpu", device) for device in ("cortex-a76", "cortex-a55"))
AVX512 = replace(CORES["cortex-a76"], vector_bytes=64, lane_operands=False, partial_cost=0.5)
VNNI = replace(AVX512, integers="vnni")
DIGEST = (1, "d3adcb4606d00b65")


def tasks_for(model: onnx.ModelProto, target: CpuTarget) -> tuple[list[Task], TunableKernels]:
    lowered = BACKEND.lower_graph(run_pipeline(model)[0], Job(target))
    return tasks_of([lowered.plan]), BACKEND.kernels(target)


def tune(
    model: onnx.ModelProto, target: CpuTarget, root: Path, runner: str, trials: int
) -> TunedNetwork:
    tuned = tune_model(model, Job(target), TuneRequest(root, runner, trials), silent)
    assert isinstance(tuned, TunedNetwork)
    return tuned


def bottleneck() -> onnx.ModelProto:
    """Return three kernels whose tiles by default are not the best of all."""
    return graph(
        """g (float[1, 20, 8, 8] x) => (float[1, 20, 8, 8] y) {
            a = Conv(x, expand)
            b = HardSwish(a)
            c = Conv<pads = [1, 1, 1, 1], group = 44>(b, depthwise)
            y = Conv(c, project)
        }""",
        expand=normal(44, 20, 1, 1),
        depthwise=normal(44, 1, 3, 3),
        project=normal(20, 44, 1, 1),
    )


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


def tuner(meter: Meter, tunable: TunableKernels, folder: Path) -> Tuner:
    return Tuner(tunable, meter, Database(folder), silent)


def local() -> LocalMeter:
    return LocalMeter(tuple(choose_cpus(1)))


def test_every_kind_of_kernel_holds_a_contest(blocks: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, tunable = tasks_for(blocks, HOST)
    kinds = {task.kind: task for task in tasks}
    assert set(kinds) == {kind for kind in kernels.SCHEDULES if not kind.startswith("integer_")}
    budget = Budget(trials=1, patience=1)
    one = tuner(local(), tunable, tmp_path)
    for task in kinds.values():
        outcome = one.run([task], budget, 0)
        assert outcome.trials == 1
        assert not outcome.failures
    records = Database(tmp_path).records()
    assert {json.loads(record.key)["kind"] for record in records} == set(kinds)
    assert all(record.cost and record.baseline for record in records)


@pytest.mark.parametrize("fault", ["run", "timeout"])
def test_a_failing_contest_is_halved(fault: str, blocks: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, tunable = tasks_for(blocks, HOST)
    faulty = Faulty(local(), fault, victim=5)  # the default and four others
    outcome = tuner(faulty, tunable, tmp_path).run(tasks[:1], Budget(trials=4), 0)
    assert outcome.trials == 4
    assert not outcome.failures  # no candidate is at fault by itself
    assert len(Database(tmp_path).records()) == 5


def test_a_culprit_is_found_and_counted(blocks: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, tunable = tasks_for(blocks, HOST)
    faulty = Faulty(local(), "timeout", victim=2)  # whoever is alone with the default
    with pytest.raises(NothingMeasuredError, match="timeout: no answer"):
        tuner(faulty, tunable, tmp_path).run(tasks[1:2], Budget(trials=1), 0)
    outcomes = [record.outcome for record in Database(tmp_path).records()]
    assert outcomes == ["timeout"]


def test_a_wrong_result_never_wins(blocks: onnx.ModelProto, tmp_path: Path) -> None:
    tasks, tunable = tasks_for(blocks, HOST)
    faulty = Faulty(local(), "wrong", victim=0)
    with pytest.raises(NothingMeasuredError, match="wrong"):
        tuner(faulty, tunable, tmp_path).run(tasks[:1], Budget(trials=6), 0)
    records = Database(tmp_path).records()
    assert [one.outcome for one in records].count("wrong") == 6
    assert not any(one.kept for one in records)


@pytest.mark.parametrize("unit", [INSTRUCTIONS, CYCLES])
def test_counted_searches_are_the_same_each_time(
    unit: str, blocks: onnx.ModelProto, emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    tasks, tunable = tasks_for(blocks, A76)
    chosen = [task for task in tasks if task.kind in ("pointwise", "depthwise")][:2]
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        runner = CountingMeter(emulator_kit, "cortex-a76", unit, Estimator(llvm, "neoverse-n1"))
        outcome = tuner(runner, tunable, folder).run(chosen, Budget(trials=6), 3)
        assert outcome.trials == 6
        contents.append((folder / RECORDS).read_bytes())
    assert contents[0] == contents[1]


def test_counting_takes_only_so_long(
    blocks: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    tasks, tunable = tasks_for(blocks, A76)
    contest = write_contest(tasks[0], [tunable.default(tasks[0])], tunable, tmp_path)
    runner = CountingMeter(emulator_kit, "cortex-a76")
    with pytest.raises(ContestTimeoutError, match="not counted within 0 s"):
        runner.measure(contest, 0.01)


def test_tuning_a_network_keeps_what_helps_and_compile_uses_it(
    emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    model = bottleneck()
    tuned = tune(model, A76, tmp_path, "emulated", 9)
    assert tuned.outcome.trials == 9
    assert tuned.network is not None
    assert tuned.network.ratio < 1
    assert [one.unit for one in tuned.network.beside] == [CYCLES]
    assert tuned.kept
    job = Job(A76, choices=best_known(BACKEND, A76, [tmp_path]))
    lowered = BACKEND.lower_graph(run_pipeline(model)[0], job)
    origins = [step.origin for step in lowered.plan.steps if step.origin]
    assert origins.count("tuned") >= len(tuned.kept)


def test_tuning_by_estimated_cycles_keeps_what_takes_fewer(
    blocks: onnx.ModelProto, emulator_kit: EmulatorKit, llvm: Llvm, tmp_path: Path
) -> None:
    tuned = tune(blocks, A55, tmp_path, "estimated", 12)
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
        tune(blocks, A55, tmp_path, "emulated", 1)


def test_without_llvm_mca_nothing_is_estimated(
    blocks: onnx.ModelProto,
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
        tune(blocks, A76, tmp_path, "estimated", 1)


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


@pytest.mark.parametrize("kills", [1, 5])
def test_killed_at_any_moment_it_goes_on(kills: int, blocks_file: Path, tmp_path: Path) -> None:
    """Kill a search without warning at random moments; the last run ends by itself.

    What was written stays, and nothing is measured twice.
    """
    logs = tmp_path / "logs"
    command = command_line(
        "tune", blocks_file, "--target", "host_cpu", "--database", logs, "--trials"
    )
    path = folder_for(logs, BACKEND.device_of(HOST_CPU)) / RECORDS
    moments = random.Random(time.time_ns())
    before: Sequence[Record] = ()
    for _ in range(kills):
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
