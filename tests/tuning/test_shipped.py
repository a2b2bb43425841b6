"""The databases that come with the package: for these kernels, this TVM, and these networks."""

from dataclasses import asdict

import pytest

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.kernels import NO_CHOICES
from mbv3c.lowering.plan import DEFAULT, TRANSFERRED, TUNED
from mbv3c.passes import run_pipeline
from mbv3c.targets.cpu import library as cpu
from mbv3c.targets.cpu.cores import machine
from mbv3c.targets.cpu.kernels import SCHEDULES
from mbv3c.targets.library import lower_for
from mbv3c.targets.table import find_target
from mbv3c.tuning.choices import context_of, device_of, measured, shipped
from mbv3c.tuning.database import META, Database, folder_for
from mbv3c.tuning.tasks import tasks_of

DEVICES = ("arm_cpu:cortex-a76", "arm_cpu:cortex-a55", "host_cpu:avx512", "host_cpu:avx2")


@pytest.mark.parametrize("name", DEVICES)
def test_database_is_of_these_kernels_and_this_tvm(name: str) -> None:
    """Fails when the kernels' version counts up: tune anew (docs/tuning.md), and ship that."""
    target = find_target(name)
    database = Database(folder_for(shipped(), device_of(target)))
    context = database.context()
    assert context is not None
    assert context == context_of(target, context.unit)
    assert all(one.outcome == "ok" for one in database.records())
    assert "machine" not in (database.folder / META).read_text()


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("variant", ["small", "large"])
@pytest.mark.parametrize("width", [1.0, 0.75])
def test_networks_are_compiled_with_what_was_measured(
    name: str, variant: str, width: float
) -> None:
    target = cpu.resolve(find_target(name))
    optimized, _ = run_pipeline(build_model(ModelSpec(variant, width=width)))
    known = measured(target, [shipped()])
    assert not known.warnings
    cores = machine(target, cpu.tvm_target(target))
    tasks = tasks_of([lower_for(optimized, target, "fp32", (), NO_CHOICES).plan])
    for task in tasks:
        knobs = known.find(task.kind, task.shape)
        legal = SCHEDULES[task.kind].legal(task.shape, cores)
        assert knobs is None or knobs in [asdict(tile) for tile in legal], task.name
    searched = {one.key for one in Database(folder_for(shipped(), device_of(target))).records()}
    assert len(searched & {task.key for task in tasks}) > len(tasks) / 2
    steps = lower_for(optimized, target, "fp32", (), known).plan.steps
    origins = [one.origin for one in steps if one.origin]
    assert origins.count(TUNED) >= 5 or target.family == "host_cpu"  # whose rules may be best
    assert set(origins) <= {TUNED, TRANSFERRED, DEFAULT}
