"""How to train: all that decides the result beside the model and the images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import cos, inf, pi
from typing import Any

import msgspec

from mbv3c.errors import UsageError
from mbv3c.nearest import among
from mbv3c.training.augment import AUGMENTATIONS

DEVICES = ("cpu", "cuda")
_MOST_THREADS = 256  # with too many more, torch ends the process
_LONGEST_WARMUP = 500  # steps, where nobody says how many


@dataclass(frozen=True)
class TrainPlan:
    """How to train.

    The optimiser is stochastic gradient descent with Nesterov's momentum. The rate rises in a line
    over `warmup` steps and falls by a cosine to 0 (Loshchilov and Hutter, arXiv:1608.03983).

    Attributes:
        steps: number of steps of the optimiser.
        batch: number of images of a step.
        rate: highest learning rate.
        warmup: number of steps to the highest rate; None for a fifth of all, at most 500.
        momentum: momentum of the optimiser.
        decay: weight decay, of weights of several dimensions only.
        smoothing: label smoothing (Szegedy et al., arXiv:1512.00567, section 7).
        average: decay of the moving average of the weights, which is the result; 0 for the last
            weights. It is smaller in the first steps: (1 + step) / (10 + step) at most.
        augment: names of augmentations, of `AUGMENTATIONS`.
        seed: seed of fresh weights, of the order of the images and of augmentations.
        fresh: whether to begin with fresh weights; None: where the model says in its metadata
            `mbv3c.seed` that its weights are those that `build` makes up.
        threads: number of threads; another number rounds otherwise.
        device: `cpu` or `cuda`.
    """

    steps: int
    batch: int = 128
    rate: float = 0.2
    warmup: int | None = None
    momentum: float = 0.9
    decay: float = 4e-5
    smoothing: float = 0.1
    average: float = 0.999
    augment: tuple[str, ...] = ()
    seed: int = 0
    fresh: bool | None = None
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "steps": (1, inf),
            "batch": (2, inf),
            "warmup": (0, inf),
            "momentum": (0, 1),
            "decay": (0, inf),
            "smoothing": (0, 1),
            "average": (0, 1),
            "seed": (0, inf),
            "threads": (1, _MOST_THREADS + 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                wanted = f"at least {low:g}" if high == inf else f"from {low:g} to below {high:g}"
                raise UsageError(f"--{name} must be {wanted}, got {value:g}")
        if not 0 < self.rate < inf:
            raise UsageError(f"--rate must be above 0, got {self.rate:g}")
        unknown = [name for name in self.augment if name not in AUGMENTATIONS]
        if unknown:
            near = among(unknown[0], AUGMENTATIONS)
            raise UsageError(f"unknown --augment {unknown[0]!r}{near}")
        if self.device not in DEVICES:
            raise UsageError(f"unknown --device {self.device!r}{among(self.device, DEVICES)}")

    @property
    def warmup_steps(self) -> int:
        """Number of steps to the highest rate."""
        return min(self.steps // 5, _LONGEST_WARMUP) if self.warmup is None else self.warmup

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, which count from 0."""
        warmup = self.warmup_steps
        if step < warmup:
            return self.rate * (step + 1) / warmup
        return self.rate * (1 + cos(pi * (step - warmup) / max(1, self.steps - warmup))) / 2

    def average_at(self, step: int) -> float:
        """Return the decay of the moving average after a step, which count from 0."""
        return min(self.average, (1 + step) / (10 + step))

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return {**asdict(self), "augment": list(self.augment)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "TrainPlan":
        """Return the plan of such a document; what it leaves out is as by default.

        Raises:
            UsageError: a field is unknown, or of another type, or makes no sense.
        """
        known = [field.name for field in fields(TrainPlan)]
        unknown = set(document) - set(known)
        if unknown:
            name = min(unknown)
            raise UsageError(f"a plan of training has no field {name!r}{among(name, known)}")
        try:
            return msgspec.convert(dict(document), TrainPlan)
        except msgspec.ValidationError as error:
            raise UsageError(f"this is no plan of training: {error}") from error
