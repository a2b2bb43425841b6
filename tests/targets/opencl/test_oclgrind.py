"""oclgrind finds nothing in any kernel of a network for Mali.

It interprets every distinct kernel on its real launch, with data races and uninitialised values
checked: of three bottlenecks, or with `-m long` of Small at 224 pixels, which takes five minutes.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv3c.graphs.spec import ModelSpec
from mbv3c.lowering.plan import Step
from mbv3c.lowering.unchecked import without_checks
from mbv3c.passes import run_pipeline
from mbv3c.targets.opencl import backend as opencl
from mbv3c.targets.opencl.limits import launch_of
from tests.execution.opencl.oclgrind import Argument, Finding, Unwritten, check_kernel
from tests.onnx_text import random
from tests.parity.small_network import small_network
from tests.targets.opencl.networks import HERE, lowered_for, rewritten

TIMEOUT = 3600.0  # seconds, of one kernel
KINDS = {"convolution", "depthwise", "gates", "pointwise", "global_pool"}

Kernels = dict[str, tuple[Step, str]]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    model = run_pipeline(small_network())[0]
    return kernels_of(model, tmp_path_factory.mktemp("oclgrind"))


def kernels_of(model: onnx.ModelProto, folder: Path) -> Kernels:
    """Return every distinct kernel of a network: the first step that calls it, its source."""
    lowered = lowered_for(model)
    with without_checks():
        sources = opencl.build(lowered.module, replace(HERE, gpu="mali"), folder / "model.so")
    steps = dict(zip(reversed(lowered.kernels), reversed(lowered.plan.steps), strict=True))
    assert {f"{name}_kernel" for name in steps} == set(sources)
    return {name: (step, sources[f"{name}_kernel"]) for name, step in steps.items()}


def findings_of(name: str, step: Step, source: str) -> list[Finding]:
    """Run a kernel on its launch, with random inputs and outputs that hold nothing yet."""
    one = launch_of(step.function)
    items = [group * groups for group, groups in zip(one.group, one.groups, strict=True)]
    arguments = _arguments(name, step, source)
    return check_kernel(source, f"{name}_kernel", arguments, items, one.group, TIMEOUT)


def _arguments(name: str, step: Step, source: str) -> list[Argument]:
    """Return what a kernel is given, in the order of its source: TVM sorts parameters by name."""
    given: dict[str, Argument] = {}
    for number, (parameter, argument) in enumerate(
        zip(step.function.params, step.arguments, strict=True)
    ):
        shape, dtype = tuple(map(int, parameter.shape)), str(parameter.dtype)
        if isinstance(argument, str) and argument in step.writes:
            value: Argument = Unwritten(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        elif isinstance(argument, str):
            value = random(*shape, seed=number).astype(dtype)
        else:
            value = np.ascontiguousarray(argument).astype(dtype)
        given[f"{parameter.name}_ptr"] = value
    (declared,) = re.findall(rf"void {name}_kernel\((.*?)\)", source)
    return [given[text.split()[-1]] for text in declared.split(", ")]


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def are_clean(kernels: Kernels) -> None:
    assert kernels
    found = {name: findings_of(name, *kernel) for name, kernel in kernels.items()}
    assert {name: findings for name, findings in found.items() if findings} == {}


@pytest.mark.parametrize("first", [True, False], ids=["first of each kind", "others"])
def test_every_kernel_is_clean(kernels: Kernels, first: bool) -> None:
    firsts = {step.kind: name for name, (step, _) in reversed(kernels.items())}
    assert firsts.keys() == KINDS
    are_clean({name: k for name, k in kernels.items() if (name in firsts.values()) == first})


def test_every_kernel_of_the_whole_network_is_clean(tmp_path: Path) -> None:
    whole = kernels_of(rewritten(ModelSpec("small")), tmp_path)
    assert {step.kind for step, _ in whole.values()} == KINDS
    are_clean(whole)


# ---- what the test would find ----


def _smallest(kernels: Kernels, kind: str, text: str = "") -> tuple[str, Step, str]:
    """Return the kernel of a kind, with `text` in it, that has the fewest multiply-adds."""
    named = (
        (name, step, source)
        for name, (step, source) in kernels.items()
        if step.kind == kind and text in source
    )
    return min(named, key=lambda one: one[1].madds)


def test_gates_without_a_barrier_are_a_race(kernels: Kernels) -> None:
    name, step, source = _smallest(kernels, "gates")
    assert source.count("barrier(2);") == 2
    found = kinds(findings_of(name, step, source.replace("barrier(2);", "")))
    assert found & {"race", "uninitialised"}
    one = source.replace("barrier(2);", "", 1)
    assert "race" in kinds(findings_of(name, step, one))


@pytest.mark.parametrize("kind", ["gates", "depthwise", "pointwise"])
def test_work_items_beyond_the_grid_without_their_guard_are_found(
    kernels: Kernels, kind: str
) -> None:
    """They write to the next row, which is another's, and at the end beyond the tensor."""
    guard = re.compile(r"^  if \(.*\) \{$", re.MULTILINE)
    name, step, source = next(
        (name, step, source)
        for name, (step, source) in reversed(kernels.items())
        if step.kind == kind and guard.search(source)
    )
    found = kinds(findings_of(name, step, guard.sub("  if (1) {", source)))
    assert "out of bounds" in found


def test_an_output_that_is_read_before_it_is_written_is_uninitialised(kernels: Kernels) -> None:
    name, step, source = _smallest(kernels, "pointwise", "vstore4(")
    planted = re.sub(
        r"vstore4\((.*), 0, (y_ptr.*)\);", r"vstore4(\1 + vload4(0, \2), 0, \2);", source
    )
    assert planted != source
    assert "uninitialised" in kinds(findings_of(name, step, planted))


def test_a_store_to_the_neighbours_place_is_a_race(kernels: Kernels) -> None:
    name, step, source = _smallest(kernels, "pointwise", "vstore4(")
    planted = re.sub(r"(vstore4\(.*, 0, y_ptr) \+ .*\);", r"\1);", source)
    assert planted != source
    assert "race" in kinds(findings_of(name, step, planted))
