"""The smallest part that a stage gets wrong, found with rewrites, which take no time."""

import numpy as np
import onnx
import pytest

from mbv3c.parity.ladder.stages import Bisection, RewriteStage
from mbv3c.passes import Pass, PassReport
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from tests.onnx_text import random
from tests.parity.small_network import SIDE, small_network
from tests.passes.planted import HardSwishOf29, WrongSide


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return small_network()


def searched(one_pass: Pass, model: onnx.ModelProto) -> Bisection:
    return Bisection(
        RewriteStage(one_pass, "planted"), model, random(1, 3, SIDE, SIDE), lambda step: None
    )


def wrong_in(name: str, factor: float) -> Pass:
    """Return a pass that scales the weights of one convolution."""

    def scale(model: onnx.ModelProto) -> tuple[onnx.ModelProto, PassReport]:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for tensor in changed.graph.initializer:
            if tensor.name == f"{name}.weight":
                values = factor * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return changed, PassReport("scale", (), (), 0, 0, True)

    return scale


@pytest.mark.parametrize(
    "name",
    ["stem", "bneck1.depthwise", "bneck2.expand", "bneck2.project", "bneck3.project", "last"],
)
def test_any_layer_is_found(network: onnx.ModelProto, name: str) -> None:
    search = searched(wrong_in(name, 1.001), network)
    shown = search.smallest("logits")
    assert shown is not None
    assert shown.failed
    assert shown.part.nodes == [f"{name}.conv"]
    assert shown.kernels == ()
    assert search.tried <= 40


def test_of_several_faults_it_is_the_first(network: onnx.ModelProto) -> None:
    shown = searched(HardSwishOf29(), network).smallest("logits")
    assert shown is not None
    assert shown.part.nodes == [f"stem.act.{one}" for one in ("add", "clip", "mul", "div")]


def test_the_part_keeps_the_nodes_that_only_together_are_wrong(network: onnx.ModelProto) -> None:
    shown = searched(WrongSide(), network).smallest("logits")
    assert shown is not None
    assert shown.part.nodes == ["bneck1.pad", "bneck1.depthwise.conv"]
    np.testing.assert_array_equal(np.array(shown.x.shape), [1, 16, 16, 16])


def test_a_sound_stage_has_no_culprit(network: onnx.ModelProto) -> None:
    search = searched(FuseHardSwish(), network)
    assert search.smallest("logits") is None
    assert search.tried == 1
