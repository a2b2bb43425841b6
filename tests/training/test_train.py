"""Training learns, gives the same result every time, and goes on where it was interrupted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors import SafetensorError

from mbv3c.errors import BundleError, Mbv3cError, ToolError, UsageError
from mbv3c.graphs.load import load_model
from mbv3c.graphs.outputs import metadata_of
from mbv3c.training import loop, state
from mbv3c.training import train as trains
from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples, open_examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.train import TrainStep, train
from tests.onnx_text import graph, random
from tests.training.conftest import DIGITS

FLOOR = 0.8
PLAN = TrainPlan(steps=50, batch=32, rate=0.3)
SHORT = replace(PLAN, steps=6, batch=8, augment=("crop", "flip", "colour"))


class Ended(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def test_training_learns(digits_model: onnx.ModelProto, digits: Examples) -> None:
    before = digits_model.SerializeToString()
    told: list[TrainStep] = []
    trained = train(digits_model, digits, PLAN, progress=told.append)
    assert trained.accuracy.share > FLOOR, trained.accuracy.interval
    assert evaluate(digits_model, digits, "validation").share < 0.3
    assert digits_model.SerializeToString() == before
    assert [step.step for step in told] == list(range(1, PLAN.steps + 1))
    assert np.mean(trained.losses[-10:]) < np.mean(trained.losses[:10]) / 1.3
    onnx.checker.check_model(trained.model, full_check=True)
    written = metadata_of(trained.model)
    assert json.loads(written["mbv3c.training"])["plan"] == PLAN.to_json()
    assert "mbv3c.seed" not in written
    names = [(node.name, node.op_type) for node in digits_model.graph.node]
    assert [(node.name, node.op_type) for node in trained.model.graph.node] == names


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a checkpoint written after nearly every step."""
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "_CHECKPOINT_SHARE", 1e3)
    monkeypatch.setattr(loop, "_MEASURED", 2)


def ending_at(step: int) -> Callable[[TrainStep], None]:
    def progress(told: TrainStep) -> None:
        if told.step == step:
            raise Ended

    return progress


@pytest.mark.usefixtures("often")
def test_an_interrupted_training_gives_the_same_bits(
    tiny_model: onnx.ModelProto,
    tiny_digits: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = tmp_path / "journal"
    whole = train(tiny_model, tiny_digits, SHORT)
    for step in (2, 4):
        with pytest.raises(Ended):
            train(tiny_model, tiny_digits, SHORT, journal=journal, progress=ending_at(step))
    # Between the state and the model beside it.
    with pytest.raises(Ended), monkeypatch.context() as patched:
        patched.setattr(state, "CHECKPOINT", Unwritable())
        train(tiny_model, tiny_digits, SHORT, journal=journal)
    told: list[TrainStep] = []
    resumed = train(tiny_model, tiny_digits, SHORT, journal=journal, progress=told.append)
    assert told[0].step > 4
    assert resumed.model.SerializeToString() == whole.model.SerializeToString()
    assert resumed.losses == whole.losses
    assert resumed.accuracy.right.tolist() == whole.accuracy.right.tolist()
    checkpoint = load_model(journal / "checkpoint.onnx")
    assert checkpoint == whole.model
    # When all is done it is only told again; other numbers are another training.
    assert train(tiny_model, tiny_digits, SHORT, journal=journal).model == whole.model
    with pytest.raises(UsageError, match="another training, with other seed; remove"):
        train(tiny_model, tiny_digits, replace(SHORT, seed=1), journal=journal)
    (journal / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"is damaged: .*; remove"):
        train(tiny_model, tiny_digits, SHORT, journal=journal)


def test_a_full_disk_is_told(
    tiny_model: onnx.ModelProto,
    tiny_digits: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(BundleError, match=r"cannot write .*state.safetensors: .*free some space"):
        train(tiny_model, tiny_digits, replace(SHORT, steps=1), journal=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_folder_with_other_things_is_left_alone(
    tiny_model: onnx.ModelProto, tiny_digits: Examples, tmp_path: Path
) -> None:
    """At its end a training removes the folder of its state."""
    left = tmp_path / ".checkpoint.onnx.mbv3c-k2h4x0ab"  # by a process that was killed
    left.mkdir()
    train(tiny_model, tiny_digits, replace(SHORT, steps=1), journal=tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"holds notes\.txt; move that elsewhere"):
        train(tiny_model, tiny_digits, replace(SHORT, steps=1), journal=tmp_path)


class Unwritable:
    """A name that ends the process that writes by it."""

    def __rtruediv__(self, folder: Path) -> Path:
        raise Ended


def test_the_seed_decides(tiny_model: onnx.ModelProto, tiny_digits: Examples) -> None:
    one, other = (
        train(tiny_model, tiny_digits, replace(SHORT, steps=2, seed=seed)).model for seed in (0, 1)
    )
    assert one != other


def test_trained_weights_are_gone_on_from_and_made_up_ones_are_not(
    tiny_model: onnx.ModelProto, tiny_digits: Examples
) -> None:
    """With steps of no length the weights stay what training began with."""
    still = replace(SHORT, steps=1, rate=1e-30, average=0.0)
    begun = train(tiny_model, tiny_digits, still).model
    kept = train(begun, tiny_digits, still).model

    anew = train(begun, tiny_digits, replace(still, fresh=True, seed=3)).model
    assert not same_weights(begun, tiny_model)
    assert same_weights(kept, begun)
    assert not same_weights(anew, begun)


def same_weights(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Say whether all but statistics is the same, but for steps of no length."""
    pairs = zip(one.graph.initializer, other.graph.initializer, strict=True)
    return all(
        np.allclose(*map(numpy_helper.to_array, pair), rtol=0, atol=1e-20)
        for pair in pairs
        if pair[0].name not in ("mean", "variance")
    )


def linear() -> onnx.ModelProto:
    return graph(
        """g (float[1, 3, 8, 8] x) => (float[1, 10] y) {
            a = Flatten(x) b = Gemm(a, w) y = Softmax<axis = 1>(b)
        }""",
        w=random(192, 10) / 100,
    )


def test_a_model_without_batch_normalization_trains_at_a_small_rate() -> None:
    model = linear()
    examples = open_examples(DIGITS, model)
    plan = TrainPlan(steps=60, batch=64, rate=0.01)
    assert train(model, examples, plan).accuracy.share > FLOOR
    with pytest.raises(Mbv3cError, match=r"the loss is nan at step \d+: .* smaller --rate"):
        train(model, examples, TrainPlan(steps=60, batch=64, rate=1e30, warmup=0))


def test_what_does_not_fit_is_refused(
    tiny_model: onnx.ModelProto, tiny_digits: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = graph(
        "g (float[1, 3, 8, 8] x) => (float[1, 4] y) { a = Flatten(x) y = Gemm(a, w) }",
        w=random(192, 4),
    )
    with pytest.raises(UsageError, match="images have 10 classes, and the model 4"):
        train(other, tiny_digits, SHORT)
    with pytest.raises(ToolError, match="no GPU for --device cuda"):
        train(tiny_model, tiny_digits, replace(SHORT, device="cuda"))
    monkeypatch.setattr(trains, "torch_package", lambda: None)
    with pytest.raises(ToolError, match=r"takes PyTorch, .* pip install torch==2\.13\.0 .*200 MB"):
        train(tiny_model, tiny_digits, SHORT)
