"""TVM's operators are tuned by MetaSchedule, and compiled as it found them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.execution.emulator.kit import EmulatorKit
from mbv3c.job import Job
from mbv3c.lowering import traced
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.plan import NO_CHOICES, Choices, Plan
from mbv3c.pipeline import compile_model, tune_model
from mbv3c.precision import FP32
from mbv3c.targets import find_target
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.library.building import best_known, database_of, manifest_of
from mbv3c.targets.library.report import kernel_lines
from mbv3c.tuning import metaschedule
from mbv3c.tuning.database import (
    METASCHEDULE,
    RECORDS,
    Database,
    Record,
    is_operator,
    tasks_of,
)
from mbv3c.tuning.request import TuneRequest
from mbv3c.tuning.session import TunedNetwork, summary_lines, untuned_operators
from mbv3c.tuning.state import State
from mbv3c.tuning.tuner import SearchResult
from tests.onnx_text import graph

A76 = find_target("arm_cpu:cortex-a76")
TRIALS = 8
POOL = "y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)"


def pooled() -> onnx.ModelProto:
    return graph(f"g (float[1, 24, 16, 16] x) => (float[1, 24, 8, 8] y) {{ {POOL} }}")


def tune(root: Path, trials: int) -> TunedNetwork:
    request = TuneRequest(root, "emulated", trials=trials)
    tuned = tune_model(pooled(), Job(A76, FP32), request, silent)
    assert isinstance(tuned, TunedNetwork)
    return tuned


def silent(event: object) -> None:
    pass


def lowered(model: onnx.ModelProto, choices: Choices = NO_CHOICES, cores: int = 1) -> Lowered:
    return BACKEND.lower_graph(model, Job(replace(A76, cores=cores), FP32, choices=choices))


@pytest.fixture(scope="module")
def tuned(
    emulator_kit: EmulatorKit, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TunedNetwork, Path]:
    root = tmp_path_factory.mktemp("metaschedule")
    return tune(root, TRIALS), root


def test_an_operator_is_tuned_and_compiled_so(
    tuned: tuple[TunedNetwork, Path], tmp_path: Path
) -> None:
    result, root = tuned
    assert result.outcome.trials == TRIALS
    assert not result.untuned
    assert result.network is not None
    assert result.network.ratio < 1
    (kept,) = result.kept
    assert is_operator(kept.key)
    folder = result.database
    assert (folder / METASCHEDULE).read_text().count("\n") == TRIALS + 2  # default, what is kept
    assert not (folder / RECORDS).read_text()
    choices = best_known(BACKEND, A76, [root])
    compiled = compile_model(pooled(), Job(A76, FP32, choices=choices), tmp_path / "bundle")
    assert compiled.verdict is not None  # it computes what onnxruntime computes
    manifest = manifest_of(compiled.bundle)
    (listed,) = manifest.tuned_kernels
    assert (listed.key, listed.knobs) == (kept.key, kept.knobs)
    assert [kernel.origin for kernel in manifest.kernels] == ["tuned"]
    assert manifest.kernels[0].knobs["trace"] == traced.digest(kept.knobs["trace"])
    assert "1 of 1 as MetaSchedule found them" in kernel_lines(manifest.kernels)[-1]
    again = lowered(pooled(), BACKEND.job_of(compiled.bundle).choices)
    assert again.plan.steps[0].knobs == kept.knobs


def test_the_database_goes_on_and_travels(
    tuned: tuple[TunedNetwork, Path], tmp_path: Path
) -> None:
    result, root = tuned
    records = Database(result.database).records()
    assert tune(root, 1).outcome.trials == 1
    after = Database(result.database).records()
    assert after[: len(records)] == records
    traces = [one.knobs["trace"] for one in after if not one.kept]
    assert len(traces) == len(set(traces)) == TRIALS + 2  # nothing is measured twice
    database_of(BACKEND, root, A76).export_to(tmp_path / "all.json")
    other = database_of(BACKEND, tmp_path / "other", A76)
    assert f"{len(after)} of {len(after)} records added" in other.import_from(
        tmp_path / "all.json"
    )
    assert "1 of them TVM's operators; 1 tuned" in other.status()
    torn = other.records.folder / METASCHEDULE
    torn.write_bytes(torn.read_bytes()[:-3])
    assert other.records.torn()
    assert other.records.records() == after[:-1]


@pytest.mark.parametrize("trace", ['[[["GetSBlock",[],["other","main"],["b0"]]],[]]', "[", "7"])
def test_a_trace_that_does_not_apply_is_told_and_skipped(trace: str) -> None:
    class Old(Choices):
        def find(self, kind: str, shape: object) -> dict[str, str] | None:
            return {"trace": trace} if kind == traced.KIND else None

    (step,), (plain,) = (lowered(pooled(), choices).plan.steps for choices in (Old(), NO_CHOICES))
    assert step.origin == "default"
    assert "does not apply" in step.warning
    assert step.function.script() == plain.function.script()
    assert not plain.warning


def test_cores_share_what_is_worth_it(
    tuned: tuple[TunedNetwork, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = best_known(BACKEND, A76, [tuned[1]])
    monkeypatch.setattr("mbv3c.lowering.schedules.general._PARALLEL_TURNS", 0)
    for cores in (1, 4):
        (step,) = lowered(pooled(), choices, cores).plan.steps
        assert step.origin == "tuned"
        assert ("T.parallel" in step.function.script()) == (cores > 1)


def test_operators_are_known_by_their_structure() -> None:
    text = "g (float[1, 24, {side}, 16] other) => (float[1, 24, {half}, 8] z) {{ {body} }}"
    body = POOL.replace("(x)", "(other)").replace("y =", "z =")
    same, larger = (graph(text.format(side=side, half=side // 2, body=body)) for side in (16, 32))
    keys = [lowered(model).plan.steps[0].shape.typical for model in (pooled(), same, larger)]
    assert keys[0] == keys[1] != keys[2]


def test_what_was_not_measured_is_said() -> None:
    gathered = (
        "g (float[1, 24, 16, 16] x, int64[2] at) => (float[1, 2, 16, 16] y)"
        " { y = Gather<axis = 1>(x, at) }"
    )
    plan = lowered(graph(gathered)).plan
    assert dict(untuned_operators(plan, []))["take in → y"] == "contests cannot draw its inputs"
    (task,) = tasks_of([lowered(pooled()).plan])
    target = BACKEND.kernels(A76).operators
    search = metaschedule.start(task.shape, target, [], None, 0)
    state = State(task, search, np.random.default_rng(0))
    ((name, reason),) = untuned_operators(Plan((), ()), [state])
    assert (name, reason) == (task.name, "the budget is spent")
    result = TunedNetwork(
        Path("logs"), A76.name, "", SearchResult([state]), [], None, untuned=((name, reason),)
    )
    said = f"operators that TVM compiles: {name} (the budget is spent)"
    assert any(said in line for line in summary_lines(result))
    assert result.to_json()["untuned_operators"] == [{"operator": name, "reason": reason}]


def test_records_of_operators_have_a_file_of_their_own(tmp_path: Path) -> None:
    database = Database(tmp_path)
    keys = [json.dumps({"kind": kind}) for kind in ("pointwise", traced.KIND)]
    records = [Record(key, {}, "ok", 1.0, 1.0) for key in keys]
    database.append(records)
    assert [len((tmp_path / name).read_text().splitlines()) for name in database.files] == [1, 1]
    assert database.records() == records
