"""Tuning of GPU kernels, on PoCL: contests, choices in a compiled network, the estimate."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import DeviceNeeds
from mbv3c.execution.device.place import Address, Place
from mbv3c.execution.opencl.runtime import KernelTime, by_calls, load_runtime
from mbv3c.execution.timing.latency import choose_cpus
from mbv3c.job import Job
from mbv3c.lowering.plan import Choices, Convolution, Depthwise, Pointwise
from mbv3c.lowering.schedules.emit import HARD_SIGMOID, HARD_SWISH, RELU
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.passes import run_pipeline
from mbv3c.pipeline import compile_model, tune_model
from mbv3c.precision import FP16, FP32, Precision
from mbv3c.targets import find_target, open_bundle
from mbv3c.targets.library.building import best_known, measured_on
from mbv3c.targets.library.target import resolve
from mbv3c.targets.opencl import kernels as gpu_kernels
from mbv3c.targets.opencl.backend import BACKEND
from mbv3c.targets.opencl.devices import GpuTarget
from mbv3c.targets.opencl.gpus import GPUS
from mbv3c.targets.opencl.kernels import GpuKernels
from mbv3c.targets.opencl.schedules import gates
from mbv3c.targets.opencl.schedules.depthwise import DepthwiseMap
from mbv3c.targets.opencl.schedules.gates import Gates
from mbv3c.targets.opencl.schedules.pointwise import Product
from mbv3c.tuning.contest import Contest, write_contest
from mbv3c.tuning.database import Database, Record, Task, folder_for, tasks_of
from mbv3c.tuning.device_meter import opened
from mbv3c.tuning.meters import BuiltNetwork, LocalMeter, same
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.session import TunedNetwork
from mbv3c.tuning.tuner import Event, SearchResult
from tests.execution.device.serving import HOST, Served, served

GPU = GPUS["generic_opencl"].gpu
GENERIC = resolve(find_target("mobile_gpu:generic_opencl"))
MALI = find_target("mobile_gpu:mali")
ADRENO = find_target("mobile_gpu:adreno")
DIGEST = (1, "2806254cd1c88a5e")


@pytest.fixture(scope="module", autouse=True)
def opencl() -> None:
    load_runtime()


def silent(event: Event | str) -> None:
    pass


def tasks_for(
    model: onnx.ModelProto, target: GpuTarget, precision: Precision = FP32
) -> list[Task]:
    return tasks_of([BACKEND.lower_graph(run_pipeline(model)[0], Job(target, precision)).plan])


def tune(
    model: onnx.ModelProto,
    target: GpuTarget,
    request: TuneRequest,
    report: Callable[[Event], None] = silent,
) -> TunedNetwork:
    tuned = tune_model(model, Job(target), request, report)
    assert isinstance(tuned, TunedNetwork)
    return tuned


def is_pooled(task: Task) -> bool:
    """Say whether a kernel also writes the sums of what it makes, in parts."""
    return isinstance(task.shape, DepthwiseMap) and task.shape.sums


def other_tile(task: Task, target: GpuTarget) -> Any:
    """Return legal knobs that are not the default's; sums come in another number of parts."""
    gpu, schedule = GPUS[target.gpu].gpu, gpu_kernels.SCHEDULES[task.kind]
    default = schedule.default(task.shape, gpu)
    tiles = [tile for tile in schedule.legal(task.shape, gpu) if tile != default]
    if is_pooled(task):
        tiles = [tile for tile in tiles if tile.outputs != default.outputs]
    return tiles[0]


def contest_of(task: Task, folder: Path) -> Contest:
    """Build a contest of the default choice with another."""
    folder.mkdir()
    default = gpu_kernels.SCHEDULES[task.kind].default(task.shape, GPU)
    return write_contest(
        task, [default, other_tile(task, GENERIC)], BACKEND.kernels(GENERIC), folder
    )


# ---- contests ----


@pytest.mark.parametrize(
    ("precision", "kinds"),
    [(FP32, set(gpu_kernels.SCHEDULES)), (FP16, {"pointwise", "depthwise"})],
    ids=["fp32", "fp16"],
)
def test_every_kind_of_kernel_holds_a_contest(
    precision: Precision, kinds: set[str], blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    """A depthwise kernel that writes sums is among them, and a product with gates."""
    tasks = tasks_for(blocks, GENERIC, precision)
    gated = [one for one in tasks if isinstance(one.shape, Product) and one.shape.gated]
    pooled = [one for one in tasks if is_pooled(one)]
    found = {one.kind: one for one in [*tasks, gated[0], pooled[0]]}
    assert set(found) == set(gpu_kernels.SCHEDULES)
    runner = LocalMeter(tuple(choose_cpus(1)), device="PoCL")
    for task in (found[kind] for kind in kinds):
        result = runner.measure(contest_of(task, tmp_path / task.kind), 120)
        assert result.cost(0) > 0
        assert result.cost(1) > 0
        assert np.abs(result.outputs[0].astype(np.float32)).max() > 0
        assert same(result.outputs, 1, 1e-5 if precision == FP32 else 5e-3)


def test_sums_in_other_parts_are_the_same_and_wrong_ones_are_not(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    y, sums = random.normal(size=(1, 4, 4, 8)), random.normal(100, 1, size=(1, 4, 8))
    halves = np.repeat(sums / 2, 2, axis=1)
    contest = Contest(tmp_path, (), (0, 1), outputs=2)
    assert same(contest.results([y, sums, y, halves]), 1, 1e-5)
    for wrong in ([y, sums, y, halves * 1.001], [y, sums, y + 1e-3, halves]):
        assert not same(contest.results(wrong), 1, 1e-5)


def test_calls_of_one_kernel_share_its_time() -> None:
    times = [KernelTime("pointwise_1_kernel", 2, 6000), KernelTime("gates_1_kernel", 1, 500)]
    calls = ["vm.builtin.reshape", "pointwise_1", "gates_1", "pointwise_1"]
    assert by_calls(calls, times) == [("pointwise_1", 3.0), ("gates_1", 0.5), ("pointwise_1", 3.0)]


# ---- devices ----


def place_of(device: Served) -> Place:
    return Place(Address(HOST, device.port), seconds=60)


def needs_of(target: GpuTarget) -> DeviceNeeds:
    return DeviceNeeds(target.name, target.triple, target.cpu, BACKEND.device_needs(target))


def test_a_device_holds_contests_by_its_gpus_clock(
    blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    task = next(one for one in tasks_for(blocks, GENERIC) if is_pooled(one))
    contest = contest_of(task, tmp_path / "contest")
    heard: list[str] = []
    (tmp_path / "server").mkdir()
    with (
        served(tmp_path / "server") as device,
        opened(
            needs_of(GENERIC), place_of(device), lambda event: heard.append(event["text"])
        ) as runner,
    ):
        runner.prove_with(task, BACKEND.kernels(GENERIC))
        result = runner.measure(contest, 60)
        whole = BuiltNetwork(contest.folder, contest.calls)
        ((blocks,),) = (one.values() for one in runner.wholes([whole]).values())
    assert len(result.costs) == 2
    assert all(len(one) == 30 and min(one) > 0 for one in result.costs)
    assert same(result.outputs, 1, 1e-5)
    # An inference is two launches and the wait for them; the clock sees each kernel alone.
    assert result.cost(1) < np.median(blocks)
    assert "(Portable Computing Language, a CPU)" in runner.description
    assert "its times say nothing about a GPU" in heard[0]


def test_devices_that_cannot_run_the_kernels_are_refused(tmp_path: Path) -> None:
    nothing = {"MBV3C_CACHE": str(tmp_path / "cache"), "OCL_ICD_VENDORS": str(tmp_path)}
    with served(tmp_path, environment=nothing) as device:
        if MALI.arch != GENERIC.arch:
            with (
                pytest.raises(UsageError, match="mobile_gpu:mali is for aarch64"),
                opened(needs_of(MALI), place_of(device), silent),
            ):
                pass
        with (
            pytest.raises(ToolError, match="has no OpenCL device for mobile_gpu:generic_opencl"),
            opened(needs_of(GENERIC), place_of(device), silent),
        ):
            pass


# ---- a whole network ----


def written(folder: Path, target: GpuTarget, tasks: list[Task]) -> dict[str, dict[str, Any]]:
    """Write a database in which other knobs than the default's won; return them by key."""
    won = {task.key: asdict(other_tile(task, target)) for task in tasks}
    database = Database(folder_for(folder, BACKEND.device_of(target)))
    database.open(measured_on(BACKEND, target).context("us"), {"seed": 0})
    database.append([Record(key, knobs, "ok", 1.0, 2.0, kept=True) for key, knobs in won.items()])
    return won


@pytest.mark.parametrize("target", [GENERIC, MALI], ids=["generic_opencl", "mali"])
def test_compile_takes_what_was_measured_and_verify_passes(
    target: GpuTarget, blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    tasks = tasks_for(blocks, target)
    chosen = [
        next(one for one in tasks if one.kind == "convolution"),
        [one for one in tasks if one.kind == "pointwise"][2],
        [one for one in tasks if is_pooled(one)][-1],
    ]
    won = written(tmp_path, target, chosen)
    choices = best_known(BACKEND, target, [tmp_path])
    assert not choices.warnings
    named = find_target(target.name)
    bundle = tmp_path / "bundle"
    compiled = compile_model(blocks, Job(named, choices=choices), bundle)
    assert compiled.verdict is not None
    assert compiled.verdict.passed
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {one["key"]: one["knobs"] for one in manifest["tuned_kernels"]} == won
    tuned = [one for one in manifest["kernels"] if one["origin"] == "tuned"]
    assert len(tuned) == sum(task.calls for task in chosen)
    assert all(one["knobs"] in won.values() for one in tuned)
    assert BACKEND.verify(open_bundle(bundle), silent).passed


def test_what_was_measured_on_another_gpu_is_not_used(
    blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    written(tmp_path, MALI, tasks_for(blocks, MALI)[:2])
    assert best_known(BACKEND, find_target("mobile_gpu:mali-android"), [tmp_path]).records
    assert not best_known(BACKEND, ADRENO, [tmp_path]).records
    folder = folder_for(tmp_path, BACKEND.device_of(MALI))
    folder.rename(folder.with_name("adreno"))
    moved = best_known(BACKEND, ADRENO, [tmp_path])
    assert not moved.records
    assert "for mobile_gpu:mali: not used" in moved.warnings[0]


def test_tuning_a_network_ends_with_the_whole_of_it(
    blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    """What wins on a machine that others use, too, is chance; that it is decided is not."""
    events: list[str] = []

    def heard(event: Event) -> None:
        events.append(event["event"])

    tuned = tune(blocks, GENERIC, TuneRequest(tmp_path, "local", trials=3), heard)
    assert tuned.device == "mobile_gpu:generic_opencl"
    assert tuned.runner.endswith("a CPU), whose times say nothing about a GPU")
    assert (tuned.outcome.trials, tuned.outcome.failures) == (3, {})
    database = Database(tuned.database)
    assert database.context() == measured_on(BACKEND, GENERIC).context("us")
    kept = [one for one in database.records() if one.kept]
    trials = [one.outcome for one in database.records() if not one.kept]
    assert trials == ["ok"] * 4  # the default is measured beside the three
    assert kept == tuned.kept
    if tuned.network is None:
        assert not kept
    else:
        assert tuned.network.before > 0
        assert tuned.network.after > 0
        assert bool(kept) == (tuned.network.ratio < 1)
        assert events.count("network") == 1


# ---- the estimate ----


@pytest.mark.parametrize("device", ["mali", "adreno", "metal"])
def test_estimating_finds_nothing_and_says_why(
    device: str, blocks: onnx.ModelProto, tmp_path: Path
) -> None:
    target = find_target(f"mobile_gpu:{device}")
    runs = [
        tune(blocks, target, TuneRequest(tmp_path, "estimated", trials=1, seed=seed))
        for seed in (0, 1)
    ]
    assert runs[0].to_json() == runs[1].to_json()
    assert "every default is the choice of the least estimate" in runs[0].estimate
    gpu = GPUS[device].gpu
    outcome: SearchResult = runs[0].outcome
    assert outcome.trials == sum(len(one.search.tiles) for one in outcome.states) > 1000
    for state in outcome.states:
        assert state.search.done
        assert state.search.best == 0
        schedule = gpu_kernels.SCHEDULES[state.task.kind]
        tile = state.search.tiles[-1]
        clocks = schedule.work(state.task.shape, tile, gpu).clocks(gpu)
        assert state.search.seen[len(state.search.tiles) - 1] == pytest.approx(
            clocks / (state.cost or 0)
        )
    assert not list(tmp_path.iterdir())


# ---- choices, and the version of the kernels ----


class Chosen(Choices):
    """Chooses the same knobs for every kernel."""

    def __init__(self, knobs: dict[str, Any]) -> None:
        self.knobs = knobs

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        return self.knobs


@pytest.mark.parametrize(
    ("knobs", "origin"),
    [({"items": 32}, "tuned"), ({"items": 512}, "default"), ({"rows": 1}, "default")],
    ids=["legal", "too large", "of another kernel"],
)
def test_only_choices_that_are_legal_are_used(knobs: dict[str, Any], origin: str) -> None:
    gpu = GPUS["mali"].gpu
    shape = Gates(1, 7, 49, 96, 24, RELU, HARD_SIGMOID)
    default = gates.default(shape, gpu)
    assert default != gates.Tile(32)
    zeros = [np.zeros(one, np.float32) for one in ((24, 96), (24,), (96, 24), (96,))]
    kernel = GpuKernels(gpu, Chosen(knobs)).gates(shape, *zeros)
    wanted = gates.Tile(32) if origin == "tuned" else default
    assert (kernel.knobs, kernel.origin, kernel.shape) == (wanted, origin, shape)


def test_kernels_count_up_their_version_when_their_code_changes() -> None:
    """If a kernel's code was changed on purpose: count `gpu_kernels.VERSION` up, mend DIGEST."""
    axis = Axis(14, 5, 2, 1, 2, 2)
    stem = Convolution(1, 3, 16, axis, axis, HARD_SWISH, channels_first=True)
    product = Pointwise(196, 40, 240, HARD_SWISH, residual=True)
    shapes: tuple[tuple[str, Any], ...] = (
        ("pointwise", Product(product, images=1, gated=True)),
        ("pointwise", Product(replace(product, dtype="float16"))),
        ("depthwise", DepthwiseMap(Depthwise(1, 72, axis, axis, HARD_SWISH), sums=True)),
        ("convolution", stem),
        ("gates", Gates(1, 7, 49, 96, 24, RELU, HARD_SIGMOID)),
    )
    text = ""
    for kind, shape in shapes:
        schedule = gpu_kernels.SCHEDULES[kind]
        for device in ("mali", "adreno"):
            tile = schedule.legal(shape, GPUS[device].gpu)[-1]
            text += schedule.generate(shape, tile).script()
    assert (gpu_kernels.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == DIGEST
