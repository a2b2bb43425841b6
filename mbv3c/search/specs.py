"""What an adaptation and a search are asked for, in words of commands and of Python."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv3c.costs.database import folder_of
from mbv3c.execution.cache import cache_root
from mbv3c.execution.device.place import Place
from mbv3c.precision import Precision, find_precision
from mbv3c.search.adapt_run import AdaptRequest, Finishing
from mbv3c.search.adapted import AdaptPlan
from mbv3c.search.budget import Budget, check_time, parse_budgets
from mbv3c.search.grid import Images
from mbv3c.search.halving import Halving
from mbv3c.search.job_answers import Device
from mbv3c.search.plan import SearchPlan
from mbv3c.search.request import SearchRequest
from mbv3c.search.sample import check_sampler
from mbv3c.search.space import Space
from mbv3c.target import Target
from mbv3c.targets import backend_of, find_target
from mbv3c.targets.costs import time_resource
from mbv3c.training.plan import TrainPlan

_TUNE, _FINISH = TrainPlan(50, rate=0.05, fresh=False), Finishing("scratch")
_SPACE, _PLAN, _TRAINING = Space(), SearchPlan(Halving((200, 600))), TrainPlan(1)


@dataclass(frozen=True)
class AdaptSpec:
    """What a network is to be adapted to.

    Attributes:
        target: FAMILY[:DEVICE].
        images: where labelled images are, or `Images`, which say how they are parted, too.
        budgets: what it may take: `0.7x`, `1.2Mcycles`, `300KiB`; one, or several.
        precision: name of the precision; None for the target's own.
        saving: what each step saves at least, as a share of what the given network takes.
        decay: by which the saving becomes smaller with each step.
        kept: names of sites, or kinds of them, that are not cut.
        tune: how proposals are trained.
        finish: the training at the end.
        grain: channel counts are multiples of this; None for the target's own grain.
        database: folder of what is known of costs; None for that in the cache.
        place: a device whose time is the cost; None for what is known here of the target.
    """

    target: str
    images: Images | str | Path
    budgets: str | Sequence[str]
    precision: str | None = None
    saving: float = 0.05
    decay: float = 0.98
    kept: tuple[str, ...] = ()
    tune: TrainPlan = _TUNE
    finish: Finishing = _FINISH
    grain: int | None = None
    database: str | Path | None = None
    place: Place | None = None

    def request(self, folder: Path) -> AdaptRequest:
        """Return the request, with the folder of the journal.

        Raises:
            UsageError: a value makes no sense.
        """
        target = find_target(self.target)
        precision = _precision(target, self.precision)
        device = Device(target, precision, _database(self.database), self.place)
        budgets = _budgets(self.budgets, device)
        plan = AdaptPlan(budgets, self.saving, self.decay, kept=self.kept)
        return AdaptRequest(
            target,
            precision,
            _images(self.images),
            plan,
            self.tune,
            self.finish,
            device.database,
            folder,
            self.grain,
            self.place,
        )


@dataclass(frozen=True)
class SearchSpec:
    """What networks are searched for.

    Attributes:
        target: FAMILY[:DEVICE].
        images: where labelled images are, or `Images`, which say how they are parted, too.
        budgets: what a network may take: `0.6x` of what MobileNetV3 takes, `2.5ms`, `300KiB`; one,
            or several.
        precision: name of the precision; None for the target's own.
        reward: exponent of the reward; None where the budget is a hard limit.
        least: least share of the budget that a network takes.
        space: the networks.
        plan: how long to look.
        training: how to train; steps and seed are the plan's.
        judged: on how many images bundles are judged, at most.
        database: folder of what is known of costs; None for that in the cache.
        place: a device whose time is the cost; None for what is known here of the target.
    """

    target: str
    images: Images | str | Path
    budgets: str | Sequence[str]
    precision: str | None = None
    reward: float | None = None
    least: float = 0.5
    space: Space = _SPACE
    plan: SearchPlan = _PLAN
    training: TrainPlan = _TRAINING
    judged: int = 1000
    database: str | Path | None = None
    place: Place | None = None

    def request(self) -> SearchRequest:
        """Return the request.

        Raises:
            UsageError: a value makes no sense.
            ToolError: Optuna is not installed.
        """
        check_sampler(self.plan.method)
        target = find_target(self.target)
        precision, database = _precision(target, self.precision), _database(self.database)
        device = Device(target, precision, database, self.place)
        return SearchRequest(
            device,
            _images(self.images),
            _budgets(self.budgets, device),
            self.reward,
            self.least,
            self.space,
            self.plan,
            self.training,
            self.judged,
        )


def _precision(target: Target, name: str | None) -> Precision:
    backend = backend_of(target)
    precision = find_precision(name) if name is not None else backend.wing.precisions[0]
    backend.check_precision(target, precision)
    return precision


def _images(given: Images | str | Path) -> Images:
    images = given if isinstance(given, Images) else Images(Path(given))
    labels = None if images.labels is None else Path(images.labels)
    return replace(images, source=Path(images.source), labels=labels)


def _budgets(given: str | Sequence[str], device: Device) -> tuple[Budget, ...]:
    budgets = parse_budgets([given] if isinstance(given, str) else given)
    check_time(budgets, lambda: time_resource(device.target, device.precision, device.place))
    return budgets


def _database(given: str | Path | None) -> Path:
    return folder_of(None if given is None else Path(given), cache_root())
