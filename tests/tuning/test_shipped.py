"""The databases that come with the package: for these kernels, this TVM, and these networks."""

from dataclasses import asdict
from functools import cache

import onnx
import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu.backend import BACKEND
from mbv3c.targets.cpu.devices import CPUS
from mbv3c.targets.library.building import best_known, measured_on
from mbv3c.tuning.choices import shipped
from mbv3c.tuning.database import META, Database, folder_for, tasks_of

NAMES = ("arm_cpu:cortex-a76", "arm_cpu:cortex-a55", "host_cpu:avx512", "host_cpu:avx2")
DEVICES = {cpu.name: cpu for cpu in CPUS if cpu.name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_database_is_of_these_kernels_and_this_tvm(name: str) -> None:
    """Fails when the kernels' version counts up: tune anew (docs/tuning.md), and ship that."""
    origin = measured_on(BACKEND, DEVICES[name])
    database = Database(folder_for(shipped(), origin.device))
    context = database.context()
    assert context is not None
    assert context == origin.context(context.unit)
    assert all(one.outcome == "ok" for one in database.records())
    assert "machine" not in (database.folder / META).read_text()


@cache
def optimized_of(variant: str, width: float) -> onnx.ModelProto:
    return run_pipeline(build_model(ModelSpec(variant, width=width)))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", ["small", "large"])
@pytest.mark.parametrize("width", [1.0, 0.75])
def test_networks_are_compiled_with_what_was_measured(
    name: str, variant: str, width: float
) -> None:
    target = DEVICES[name]
    optimized = optimized_of(variant, width)
    known = best_known(BACKEND, target, [shipped()])
    assert not known.warnings
    kernels = BACKEND.kernels(target)
    tasks = tasks_of([BACKEND.lower_graph(optimized, Job(target)).plan])
    for task in tasks:
        knobs = known.find(task.kind, task.shape)
        legal = kernels.legal(task)
        assert knobs is None or knobs in [asdict(tile) for tile in legal], task.name
    database = Database(folder_for(shipped(), BACKEND.device_of(target)))
    searched = {one.key for one in database.records()}
    assert len(searched & {task.key for task in tasks}) > len(tasks) / 2
    steps = BACKEND.lower_graph(optimized, Job(target, choices=known)).plan.steps
    origins = [one.origin for one in steps if one.origin]
    assert origins.count(TUNED) >= 5 or target.family == "host_cpu"  # whose rules may be best
    assert set(origins) <= {TUNED, TRANSFERRED, DEFAULT}
