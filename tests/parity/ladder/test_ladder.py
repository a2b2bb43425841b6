"""Ladders of tuned, damaged and int8 bundles, beside `tests/commands/test_verify_ladder.py`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv3c.job import Job
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.pipeline import climb_bundle, compile_model
from mbv3c.targets import find_target
from mbv3c.targets.cpu.cores import Processor, processor_of
from mbv3c.targets.cpu.schedules import pointwise
from mbv3c.targets.library.target import resolve
from tests.parity.small_network import small_network

Pack = Callable[[pointwise.Pointwise, pointwise.Tile, Processor, np.ndarray], np.ndarray]


class OtherTiles(Choices):
    """Of every product another tile than the default."""

    def find(self, kind: str, shape: Any) -> dict[str, Any] | None:
        if kind != "pointwise":
            return None
        host = resolve(find_target("host_cpu"))
        cores = processor_of(host)
        default = pointwise.default(shape, cores)
        others = (one for one in pointwise.legal(shape, cores) if one != default)
        return asdict(next(others, default))


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return small_network()


def compiled(
    network: onnx.ModelProto, path: Path, choices: Choices = NO_CHOICES, target: str = "host_cpu"
) -> Path:
    compile_model(network, Job(find_target(target), choices=choices), path, verify=False)
    return path


def swapping(pack: Pack) -> Pack:
    """Return a packing that swaps the outputs of products of 72 inputs."""

    def swapped(
        shape: pointwise.Pointwise, tile: pointwise.Tile, cores: Processor, weights: np.ndarray
    ) -> np.ndarray:
        return pack(shape, tile, cores, weights[::-1] if shape.inputs == 72 else weights)

    return swapped


def test_a_tuned_bundle(network: onnx.ModelProto, tmp_path: Path) -> None:
    ladder = climb_bundle(compiled(network, tmp_path / "b", OtherTiles()))
    assert ladder.passed
    assert ladder.rows[-1].stage == "tuned, on the target"
    assert "default schedules, on this machine" in {one.stage for one in ladder.skipped}


def test_a_fault_of_packing_is_not_blamed_on_tuning(
    network: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointwise, "pack", swapping(pointwise.pack))
    ladder = climb_bundle(compiled(network, tmp_path / "b", OtherTiles()))
    assert [row.stage for row in ladder.rows[-2:]] == [
        "default schedules, on this machine",
        "tuned, on the target",
    ]
    assert ladder.rows[-2].verdict == "BREAKS"
    assert ladder.culprit is not None
    assert ladder.culprit.stage.name == "default schedules, on this machine"
    assert ladder.culprit.layers == ("bneck2.project.conv", "bneck2.project.bn")


def test_a_damaged_library_is_named_by_its_kernel(
    network: onnx.ModelProto, tmp_path: Path
) -> None:
    """The compiler of today makes every part right; the library in the bundle is another's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointwise, "pack", swapping(pointwise.pack))
        path = compiled(network, tmp_path / "b")
    ladder = climb_bundle(path)
    assert not ladder.passed
    found = ladder.culprit
    assert found is not None
    assert found.stage.name == "scheduled, on the target"
    assert (
        {"bneck2.project.conv"}
        <= {*found.layers}
        <= {*("bneck2.project.conv", "bneck2.project.bn", "bneck2.residual")}
    )
    (kernel,) = found.shown.kernels
    assert kernel.startswith("pointwise_")
    assert "bneck2.project.conv" in kernel
    assert found.shown.failed
