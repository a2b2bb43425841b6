"""Training learns, gives the same result every time, and goes on where it was interrupted."""

import onnx

from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples
from mbv3c.training.plan import TrainPlan
from mbv3c.training.train import Trained, TrainStep, train


def test_training_learns(digits_model: onnx.ModelProto, digits: Examples) -> None:
    before = digits_model.SerializeToString()
    told: list[TrainStep] = []
    plan = TrainPlan(steps=60, batch=64, rate=0.2)
    trained: Trained = train(digits_model, digits, plan, progress=told.append)
    assert trained.accuracy.share > 0.8, trained.accuracy.interval
    assert evaluate(digits_model, digits, "validation").share < 0.3
    assert digits_model.SerializeToString() == before
    assert [step.step for step in told] == list(range(1, 61))
    assert trained.losses[-1] < trained.losses[0] / 2
