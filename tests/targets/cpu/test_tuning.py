"""A search in int8 and fp16: on this machine, counted on the emulated one, and what is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.execution.timing.latency import choose_cpus
from mbv3c.job import Job
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.lowering.schedules.windows import Axis
from mbv3c.pipeline import compile_model, tune_model
from mbv3c.precision import FP16, INT8, Precision
from mbv3c.prepare import rewritten_for
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets import find_target, open_bundle
from mbv3c.targets.backend import Compiled
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.cores import CORES, Processor, processor_of
from mbv3c.targets.cpu.devices import CpuTarget
from mbv3c.targets.cpu.kernels import SCHEDULES
from mbv3c.targets.cpu.schedules.integer.arithmetic import has_dot
from mbv3c.targets.cpu.schedules.integer.convolution import IntegerConvolution
from mbv3c.targets.cpu.schedules.integer.depthwise import IntegerDepthwise
from mbv3c.targets.cpu.schedules.integer.pointwise import IntegerPointwise
from mbv3c.targets.cpu.schedules.integer.requantization import Requantization
from mbv3c.targets.library.building import best_known
from mbv3c.targets.library.manifest import manifest_of
from mbv3c.targets.library.target import resolve
from mbv3c.tuning.contest import write_contest
from mbv3c.tuning.database import Database, Task, key_of, tasks_of
from mbv3c.tuning.meters import CountingMeter, LocalMeter, same
from mbv3c.tuning.pace import Budget
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.session import TunedNetwork
from mbv3c.tuning.tuner import Tuner

HOST = resolve(find_target("host_cpu"))
A76 = find_target("arm_cpu:cortex-a76")
AXIS = Axis(14, 3, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def integers(blocks: onnx.ModelProto) -> onnx.ModelProto:
    return quantize(blocks, random_inputs(blocks, 4), rank_layers=False)[0]


def tasks_for(
    model: onnx.ModelProto, target: CpuTarget, precision: Precision
) -> tuple[list[Task], Processor]:
    rewritten, _ = rewritten_for(model, precision)
    lowered = BACKEND.lower_graph(rewritten, Job(target, precision))
    return tasks_of([lowered.plan]), processor_of(target)


def tune(model: onnx.ModelProto, precision: Precision, root: Path, trials: int) -> TunedNetwork:
    """Tune for the emulated Cortex-A76."""
    request = TuneRequest(root, "emulated", trials=trials)
    tuned = tune_model(model, Job(A76, precision), request, silent)
    assert isinstance(tuned, TunedNetwork)
    return tuned


def silent(event: object) -> None:
    pass


def local() -> LocalMeter:
    return LocalMeter(tuple(choose_cpus(1)))


def test_every_kind_of_integer_kernel_holds_a_contest(
    integers: onnx.ModelProto, tmp_path: Path
) -> None:
    tasks, cores = tasks_for(integers, HOST, INT8)
    kinds = {
        task.kind: task for task in tasks if len(SCHEDULES[task.kind].legal(task.shape, cores)) > 2
    }
    dense = {"integer_convolution" if has_dot(cores) else "convolution"}
    assert set(kinds) == {"integer_pointwise", "integer_depthwise"} | dense
    tuner = Tuner(BACKEND.kernels(HOST), local(), Database(tmp_path), silent)
    for task in kinds.values():
        outcome = tuner.run([task], Budget(trials=2, patience=1), 0)
        assert outcome.trials == 2
        assert not outcome.failures
    records = Database(tmp_path).records()
    assert {json.loads(record.key)["kind"] for record in records} == set(kinds)
    assert all(record.cost and record.baseline for record in records)


@pytest.mark.parametrize("kind", ["integer_pointwise", "integer_depthwise"])
def test_what_meets_in_a_contest_spreads_over_the_integers(
    kind: str, integers: onnx.ModelProto, tmp_path: Path
) -> None:
    """If biases forgot how inputs are multiplied, sums would be cut off."""
    tasks, cores = tasks_for(integers, HOST, INT8)
    task = max((one for one in tasks if one.kind == kind), key=lambda one: one.step.madds)
    arguments = (*task.step.arguments[:4], task.step.arguments[-1])  # a table would hide it
    shape = replace(task.shape, output=Requantization(3))
    task = replace(task, shape=shape, step=replace(task.step, arguments=arguments))
    schedule = SCHEDULES[kind]
    tiles = [schedule.default(task.shape, cores), schedule.legal(task.shape, cores)[-1]]
    contest = write_contest(task, tiles, BACKEND.kernels(HOST), tmp_path)
    outputs = local().measure(contest, 60.0).outputs
    assert same(outputs, 1, 0.0)
    assert len(np.unique(outputs[0])) > 200
    assert np.isin(outputs[0], (-128, 127)).mean() < 0.1
    assert abs(outputs[0].mean()) < 30
    changed = outputs[1].copy()
    changed.reshape(-1)[7] += 1
    assert not same([outputs[0], changed], 1, 0.0)


def test_integers_are_tuned_and_compile_uses_it(
    integers: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    tuned = tune(integers, INT8, logs, 24)
    assert tuned.outcome.trials == 24
    assert not tuned.outcome.failures
    assert tuned.network is not None
    assert tuned.network.ratio < 1
    kept = {record.key: record.knobs for record in tuned.kept}
    assert kept
    bundle, default = tmp_path / "tuned", tmp_path / "default"
    compiled = compiled_to(bundle, integers, best_known(BACKEND, A76, [logs]))
    compiled_to(default, integers, NO_CHOICES)
    kernels = manifest_of(compiled.bundle).kernels
    origins = [one.origin for one in kernels if one.kind.startswith("integer_")]
    assert origins.count("tuned") >= len(kept)
    manifest = json.loads((bundle / "manifest.json").read_text())
    listed = [one for one in manifest["tuned_kernels"] if one["origin"] == "tuned"]
    assert {one["key"]: one["knobs"] for one in listed} == kept
    assert (bundle / "model.so").read_bytes() != (default / "model.so").read_bytes()
    parities = [BACKEND.verify(open_bundle(path), silent) for path in (bundle, default)]
    assert parities[0].kernels is not None
    assert parities[0].kernels.passed
    assert parities[0].to_json() == parities[1].to_json()  # to the last bit


def compiled_to(path: Path, model: onnx.ModelProto, choices: Choices) -> Compiled:
    return compile_model(model, Job(A76, INT8, choices=choices), path, verify=False)


def test_half_precision_is_tuned(
    blocks: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    tuned = tune(blocks, FP16, tmp_path, 4)
    assert not tuned.outcome.failures
    keys = [json.loads(record.key) for record in Database(tuned.database).records()]
    assert {key["dtype"] for key in keys} == {"float16"}
    assert "squeeze_excite" in {state.task.kind for state in tuned.outcome.states}


def test_squeeze_and_excitation_in_half_precision_holds_a_contest(
    blocks: onnx.ModelProto, emulator_kit: EmulatorKit, tmp_path: Path
) -> None:
    tasks, cores = tasks_for(blocks, A76, FP16)
    task = next(one for one in tasks if one.kind == "squeeze_excite")
    schedule = SCHEDULES[task.kind]
    tiles = [schedule.default(task.shape, cores), *schedule.legal(task.shape, cores)[:2]]
    contest = write_contest(task, tiles, BACKEND.kernels(A76), tmp_path)
    shown = CountingMeter(emulator_kit, "cortex-a76").measure(contest, 60.0)
    assert all(same(shown.outputs, at, 5e-3) for at in range(3))
    assert np.ptp(shown.outputs[0]) > 0
    assert all(cost > 500 for costs in shown.costs for cost in costs), shown.costs


SHAPES: dict[str, Callable[[int, Requantization], Any]] = {
    "integer_pointwise": lambda zero, output: IntegerPointwise(196, 40, 240, output),
    "integer_depthwise": lambda zero, output: IntegerDepthwise(1, 72, AXIS, AXIS, zero, output),
    "integer_convolution": lambda zero, output: IntegerConvolution(
        1, 4, 16, AXIS, AXIS, zero, output
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_another_calibration_finds_what_was_measured(kind: str) -> None:
    shape = SHAPES[kind]
    key = key_of(kind, shape(-3, Requantization(-128, lookup=True)))
    assert key_of(kind, shape(17, Requantization(5, lookup=True))) == key
    assert key_of(kind, shape(-3, Requantization(0, lookup=True))) != key  # no zero point to add
    assert key_of(kind, shape(-3, Requantization(-128))) != key  # no table
    assert key_of(kind, shape(-3, Requantization(5, high=90, lookup=True))) != key  # a clamp
    same_clamp = (key_of(kind, shape(0, Requantization(5, -20, high))) for high in (90, 91))
    assert len(set(same_clamp)) == 1
    assert json.loads(key)["kind"] == kind


def test_zero_points_change_no_legal_choice() -> None:
    cores = CORES["cortex-a76"]
    for kind, shape in SHAPES.items():
        schedule = SCHEDULES[kind]
        given = shape(-3, Requantization(-128, -100, 90, lookup=True))
        assert schedule.legal(given, cores) == schedule.legal(given.typical, cores)
        assert schedule.default(given, cores) == schedule.default(given.typical, cores)
