"""The loop of training, by torch."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - as torch's users call it
from numpy.typing import NDArray

from mbv3c.errors import DivergedError, ToolError, UsageError
from mbv3c.graphs.outputs import with_metadata
from mbv3c.training.classifier import classes_in, trained_metadata
from mbv3c.training.evaluate import evaluate
from mbv3c.training.examples import Examples
from mbv3c.training.fresh import begun, is_made_up
from mbv3c.training.network import (
    TRAINING,
    Mode,
    Network,
    Tensors,
    arrays,
    check_network,
)
from mbv3c.training.plan import TrainPlan
from mbv3c.training.results import Trained, TrainStep
from mbv3c.training.state import Journal, State, open_journal
from mbv3c.training.trainable import Trainable, trainable, with_weights
from mbv3c.version import __version__

TRAINING_KEY = "mbv3c.training"

_SMOOTHED = 0.95  # share of themselves that shown averages keep
_MEASURED = 16  # batches that the statistics of averaged weights are measured on,
_MEASURED_SHORT, _MEASURED_SHARE = 4, 0.2  # or fewer where there are few steps: a fifth of them
_CHECKED = 2  # images on which torch must compute what onnxruntime computes
_VALIDATED = 500  # images that a checkpoint is validated on
# A checkpoint is written so seldom that writing takes a twentieth of the time, or less.
_CHECKPOINT_SECONDS, _CHECKPOINT_SHARE = 10.0, 0.05
# What random numbers are for.
_ORDER, _AUGMENTS = 3, 4


def run(
    model: onnx.ModelProto,
    examples: Examples,
    plan: TrainPlan,
    journal: Path | None,
    progress: Callable[[TrainStep], None],
) -> Trained:
    """Train a model, as `mbv3c.training.train.train` says."""
    classes = classes_in(model).count
    if classes != examples.classes.count:
        raise UsageError(
            f"the images have {examples.classes.count} classes, and the model {classes}; training "
            "needs as many in both"
        )
    if examples.count("train") < 2:
        raise UsageError("training needs two images or more, beside those to validate with")
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ToolError("torch finds no GPU for --device cuda; leave it out to train on the CPU")
    fresh = is_made_up(model) if plan.fresh is None else plan.fresh
    batch = min(plan.batch, examples.count("train"))
    made = begun(trainable(model, batch), fresh=fresh, seed=plan.seed)
    key = _key(model, examples, plan)
    opened = nullcontext(None) if journal is None else open_journal(journal, key)
    with _threads(plan.threads), opened as place:
        return _Training(made, examples, plan, place, batch).run(progress)


def _key(model: onnx.ModelProto, examples: Examples, plan: TrainPlan) -> dict[str, Any]:
    """Return all that the result depends on, but for the processor."""
    return {
        "model": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
        "images": examples.fingerprint,
        "plan": plan.to_json(),
        "mbv3c": __version__,
        "torch": str(torch.__version__),
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """A training: its tensors, and the steps that are done."""

    def __init__(
        self,
        made: Trainable,
        examples: Examples,
        plan: TrainPlan,
        place: Journal | None,
        batch: int,
    ) -> None:
        self._made, self._examples, self._plan = made, examples, plan
        self._place, self._batch = place, batch
        self._network = network = Network(made, plan.device)
        self._tensors: dict[str, Tensors] = {
            "weights": network.weights,
            "statistics": network.statistics,
            "momentum": {name: torch.zeros_like(x) for name, x in network.weights.items()},
        }
        if plan.average:
            self._tensors["average"] = {
                name: weight.detach().clone() for name, weight in network.weights.items()
            }
        self._losses: list[float] = []
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        check_network(network, made, self._images(0)[0][:_CHECKED])

    def run(self, progress: Callable[[TrainStep], None]) -> Trained:
        if self._place is not None and (state := self._place.read()) is not None:
            self._go_on(state)
        shown = _Shown(self._plan.steps, len(self._losses))
        last = time.monotonic()
        every = _CHECKPOINT_SECONDS
        while len(self._losses) < self._plan.steps:
            loss, right = self._step()
            told = shown.tell(loss, right)
            now = time.monotonic()
            if self._place is not None and now - last >= every:
                model = self._checkpoint()
                validation = evaluate(model, self._examples, "validation", limit=_VALIDATED)
                last = time.monotonic()
                every = max(_CHECKPOINT_SECONDS, (last - now) / _CHECKPOINT_SHARE)
                told = shown.written(told, validation, last - now)
            progress(told)
        model = self._checkpoint()
        accuracy = evaluate(model, self._examples, "validation")
        return Trained(model, accuracy, tuple(self._losses))

    def _step(self) -> tuple[float, float]:
        """Do a step, and return the loss and the share of images that were right before."""
        step, plan = len(self._losses), self._plan
        x, labels = self._images(step, plan.augment)
        weights = self._tensors["weights"]
        scores = self._network.scores(x, TRAINING, weights, self._tensors["statistics"])
        loss = F.cross_entropy(scores, labels, label_smoothing=plan.smoothing)
        value = float(loss.item())
        if not isfinite(value):
            if not step:
                raise DivergedError(
                    f"the loss is {value} before anything was trained: the model's own scores of "
                    "these images are no numbers; train one with other weights, or with `mbv3c "
                    "train --fresh`"
                )
            raise DivergedError(f"the loss is {value} at step {step + 1}: {_astray(plan)}")
        right = float((scores.argmax(1) == labels).float().mean().item())
        loss.backward()
        self._descend(plan.rate_at(step))
        if plan.average:
            share = 1 - plan.average_at(step)
            with torch.no_grad():
                for name, average in self._tensors["average"].items():
                    average.lerp_(weights[name], share)
        self._losses.append(value)
        return value, right

    def _descend(self, rate: float) -> None:
        """Go a step along the gradients, and forget them."""
        plan = self._plan
        with torch.no_grad():
            for name, weight in self._tensors["weights"].items():
                gradient = weight.grad
                if gradient is None:  # nothing of the scores depends on it
                    continue
                if weight.ndim > 1:
                    gradient = gradient.add(weight, alpha=plan.decay)
                momentum = self._tensors["momentum"][name]
                momentum.mul_(plan.momentum).add_(gradient)
                weight.add_(gradient.add(momentum, alpha=plan.momentum), alpha=-rate)
                weight.grad = None

    def _images(self, step: int, augment: tuple[str, ...] = ()) -> tuple[Any, Any]:
        """Return the images of a step and their classes, which depend on the seed alone."""
        seed, count = self._plan.seed, self._examples.count("train")
        epoch, place = divmod(step, count // self._batch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([seed, _ORDER, epoch])
            self._order = (epoch, rng.permutation(count))
        chosen = self._order[1][place * self._batch : (place + 1) * self._batch]
        rng = np.random.default_rng([seed, _AUGMENTS, step])
        x = torch.from_numpy(self._examples.batch("train", chosen, augment, rng))
        if not self._examples.preprocessing.channels_last:
            x = x.permute(0, 3, 1, 2)
        labels = torch.from_numpy(self._examples.labels("train")[chosen])
        return x.to(self._plan.device), labels.to(self._plan.device)

    def _model(self) -> onnx.ModelProto:
        """Return the model with the weights of now: their average, if there is one.

        The statistics of BatchNormalization are measured anew with these weights, over some
        batches, for those of the steps belong to other weights.
        """
        weights = self._tensors.get("average", self._tensors["weights"])
        statistics = {name: x.clone() for name, x in self._tensors["statistics"].items()}
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise DivergedError(
                f"after step {len(self._losses)} weights are no longer numbers: "
                f"{_astray(self._plan)}"
            )
        few = max(_MEASURED_SHORT, int(self._plan.steps * _MEASURED_SHARE))
        with torch.no_grad():
            for index in range(min(_MEASURED, few) if statistics else 0):
                x, _ = self._images(index)
                mode = Mode(True, 1 / (index + 1))
                self._network.scores(x, mode, weights, statistics)
        model = with_weights(self._made.model, {**arrays(weights), **arrays(statistics)})
        examples = self._examples
        entries = trained_metadata(examples.preprocessing, examples.classes.names)
        return with_metadata(model, {**entries, TRAINING_KEY: json.dumps(self._about())})

    def _about(self) -> dict[str, Any]:
        """Return what the model's metadata say of its training."""
        return {
            "plan": self._plan.to_json(),
            "steps_done": len(self._losses),
            "images": self._examples.fingerprint,
            "torch": str(torch.__version__),
        }

    def _checkpoint(self) -> onnx.ModelProto:
        model = self._model()
        if self._place is not None:
            kept = {kind: arrays(tensors) for kind, tensors in self._tensors.items()}
            self._place.write(State(kept, tuple(self._losses)), model)
        return model

    def _go_on(self, state: State) -> None:
        """Take tensors and losses from a state.

        Raises:
            UsageError: it lacks some.
        """
        try:
            with torch.no_grad():
                for kind, tensors in self._tensors.items():
                    for name, tensor in tensors.items():
                        tensor.copy_(torch.from_numpy(state.tensors[kind][name]))
        except (KeyError, RuntimeError) as error:
            raise UsageError(f"the state is damaged: {error}; remove it to begin anew") from error
        self._losses = list(state.losses)


def _astray(plan: TrainPlan) -> str:
    """Say what to do, in the options of each command that trains."""
    return (
        f"training has gone astray; take a smaller --rate than {plan.rate:g} (of `adapt` "
        "--tune-rate or --finish-rate), or of `train` a longer --warmup"
    )


class _Shown:
    """What is told of the steps: averages, and the time that is left."""

    def __init__(self, steps: int, done: int) -> None:
        self._steps, self._done = steps, done
        self._began, self._timed, self._apart = 0.0, 0, 0.0
        self._loss = self._right = self._weight = 0.0

    def tell(self, loss: float, right: float) -> TrainStep:
        now = time.monotonic()
        self._done += 1
        self._loss = _SMOOTHED * self._loss + (1 - _SMOOTHED) * loss
        self._right = _SMOOTHED * self._right + (1 - _SMOOTHED) * right
        self._weight = _SMOOTHED * self._weight + (1 - _SMOOTHED)
        left = None
        if not self._began:  # the first step makes tables
            self._began = now
        else:
            self._timed += 1
            each = (now - self._began - self._apart) / self._timed
            left = each * (self._steps - self._done)
        loss, right = self._loss / self._weight, self._right / self._weight
        return TrainStep(self._done, self._steps, loss, right, left)

    def written(self, step: TrainStep, validation: Any, seconds: float) -> TrainStep:
        self._apart += seconds
        return TrainStep(
            step.step, step.steps, step.loss, step.accuracy, step.seconds_left, True, validation
        )
