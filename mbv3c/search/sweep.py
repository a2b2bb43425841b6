"""Train, cost and compile all combinations of a grid; what is known is not computed again.

networks ─► train | evaluate ─► compile ─► evaluate what was quantized
        └─► cost
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from mbv3c.accuracy.tally import Interval
from mbv3c.costs.types import time_of
from mbv3c.errors import ModelError, ParityError, UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.load import load_model
from mbv3c.jobs.engine import Engine, JobFailed, run_jobs
from mbv3c.jobs.job import Job
from mbv3c.jobs.store import Result, Store
from mbv3c.precision import find_precision
from mbv3c.progress import Progress
from mbv3c.search.grid import Grid, Network
from mbv3c.search.kinds import (
    BUNDLE,
    MODEL,
    PackedImages,
    compile_job,
    cost_job,
    evaluate_job,
    packed,
    train_job,
)
from mbv3c.targets import backend_of, find_target

# Kinds of errors that say that a combination makes no sense.
_REFUSED = tuple(one.kind for one in (UsageError, ModelError, ParityError))
QUANTIZED = f"{BUNDLE}/quantized.onnx"
Ended = Result | JobFailed


@dataclass(frozen=True)
class Combination:
    """A network for a target in a precision, and what is known of it.

    Attributes:
        network: the network's name.
        target: FAMILY:DEVICE.
        precision: name of the precision.
        kind: how the cost was found: estimated, emulated or measured; empty if it was not.
        resources: what one inference takes, as `mbv3c.costs.types.NetworkCost` has it.
        accuracy: share of images on which it is right, with its interval; None without images or
            trained weights.
        accuracy_of: what computed that: `network`, the model in fp32, or `quantized`, the model in
            the bundle.
        part: which images these are.
        bundle: of what was compiled `sizes`, `passed`, `ran_on`, `max_error_of_range`.
        refused: why there is no cost or no bundle; empty if there is.
        failed: whether a process died, or lacked a tool, a file or space, rather than that the
            combination makes no sense.
    """

    network: str
    target: str
    precision: str
    kind: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    accuracy: Interval | None = None
    accuracy_of: str = ""
    part: str = ""
    bundle: Mapping[str, Any] | None = None
    refused: str = ""
    failed: bool = False

    @property
    def time(self) -> str:
        """The key in `resources` of what stands for time on the target; empty without a cost."""
        return time_of(self.resources)


@dataclass(frozen=True)
class Sweep:
    """What came of a grid.

    Attributes:
        combinations: all that makes sense, in the order of the grid.
        models: the models, trained where the grid says so, by the networks' names.
        bundles: the files of the bundles by network, target and precision.
    """

    combinations: tuple[Combination, ...]
    models: Mapping[str, Result | None]
    bundles: Mapping[tuple[str, str, str], Result]


def sweep(grid: Grid, store: Store, engine: Engine, progress: Progress) -> Sweep:
    """Find out what all combinations of a grid cost, and how good they are.

    Raises:
        UsageError: a network cannot be built, a target is unknown, or takes none of the
            precisions; the images are not those of the networks.
        Mbv3cError: the engine cannot go on.
    """
    return _Sweep(grid, store, engine, progress).run()


class _Sweep:
    def __init__(self, grid: Grid, store: Store, engine: Engine, progress: Progress) -> None:
        self._grid, self._store, self._progress = grid, store, progress
        self._engine = engine
        self._images: PackedImages | None = None
        self._given: dict[str, str] = {}
        self._used: dict[str, str] = {}  # trained, where that is asked for
        self._found: dict[tuple[str, str, str], Combination] = {}
        self._possible: list[Key] = []  # what the targets compute
        self._bundles: dict[tuple[str, str, str], Result] = {}

    def run(self) -> Sweep:
        self._combine()
        self._put_models()
        if self._grid.images is not None:
            self._progress("reading the images")
            self._images = packed(self._grid.images, self._store)
        trained = self._train_and_cost()
        if self._grid.compile:
            self._compile()
        return Sweep(tuple(self._found.values()), trained, self._bundles)

    def _combine(self) -> None:
        for name in self._grid.targets:
            target = find_target(name)
            backend = backend_of(target)
            for precision in self._grid.precisions:
                chosen = backend.wing.precisions[0]
                if precision is not None:
                    chosen = find_precision(precision)
                refused = ""
                try:
                    backend.check_precision(target, chosen)
                except UsageError as error:
                    refused = str(error)
                for network in self._grid.networks:
                    key = network.name, target.name, chosen.name
                    self._found[key] = Combination(*key, refused=refused)
                    if not refused:
                        self._possible.append(key)
        if not self._possible:
            raise UsageError(next(iter(self._found.values())).refused)

    def _put_models(self) -> None:
        classes = self._classes()
        for number, network in enumerate(self._grid.networks, 1):
            self._progress(
                f"building {network.name} ({number} of {len(self._grid.networks)})"
                if network.model is None
                else f"reading {network.model}"
            )
            try:
                model = _model_of(network, classes)
            except (UsageError, ModelError) as error:
                raise UsageError(f"{network.where}: {error}") from error
            self._given[network.name] = self._store.put(
                model.SerializeToString(deterministic=True)
            )
        self._used = dict(self._given)

    def _classes(self) -> int | None:
        if self._grid.images is None:
            return None
        from mbv3c.training.given import classes_of

        return classes_of(self._grid.images.source, self._grid.images.labels).count

    def _train_and_cost(self) -> dict[str, Result | None]:
        judged = {
            network.name: job for network in self._grid.networks if (job := self._judge(network))
        }
        asked = list(self._cost_jobs())
        ended = self._do([*judged.values(), *(job for job, _ in asked)], self._engine)
        self._take_costs(asked, ended[len(judged) :])
        results: dict[str, Result | None] = dict.fromkeys(self._given)
        for name, one in zip(judged, ended, strict=False):
            if isinstance(one, JobFailed):
                self._set(self._keys_of(name), refused=str(one), failed=one.cause not in _REFUSED)
                continue
            if MODEL in one.files:
                results[name] = one
                self._used[name] = self._store.put(one.files[MODEL])
            self._take_accuracy(self._keys_of(name), one, "network")
        return results

    def _judge(self, network: Network) -> Job | None:
        """Return the job that gives a network's accuracy; None where nothing can."""
        if self._images is None:
            return None
        model = self._given[network.name]
        if network.has_weights:
            return evaluate_job(model, self._images, network.name)
        if self._grid.plan is None:
            return None
        return train_job(model, self._images, self._grid.plan, network.name)

    def _cost_jobs(self) -> "Iterator[Asked]":
        """Yield jobs that ask for the costs of networks that differ in width only, together."""
        families: dict[tuple[object, ...], list[str]] = {}
        for network in self._grid.networks:
            families.setdefault(network.family, []).append(network.name)
        for target, precision in dict.fromkeys((one, two) for _, one, two in self._possible):
            for names in families.values():
                keys = [(name, target, precision) for name in names]
                others = f" and {len(names) - 1} other width{'s' * (len(names) > 2)}"
                title = names[0] + others * (len(names) > 1)
                models = [self._given[name] for name in names]
                yield cost_job(models, target, precision, title), keys

    def _take_costs(self, asked: "Sequence[Asked]", ended: Sequence[Ended]) -> None:
        for (_, keys), one in zip(asked, ended, strict=True):
            if isinstance(one, JobFailed):
                self._set(keys, refused=str(one), failed=one.cause not in _REFUSED)
                continue
            for key, cost in zip(keys, one.document["networks"], strict=True):
                self._set([key], **cost)

    def _compile(self) -> None:
        keys = [key for key in self._possible if not self._found[key].failed]
        jobs = [
            compile_job(self._used[name], target, precision, self._images, name)
            for name, target, precision in keys
        ]
        quantized: dict[tuple[str, str, str], Job] = {}
        for key, one in zip(keys, self._do(jobs, self._engine), strict=True):
            if isinstance(one, JobFailed):
                self._set([key], refused=str(one), failed=one.cause not in _REFUSED)
            elif "refused" in one.document:
                self._set([key], refused=one.document["refused"])
            else:
                self._set([key], bundle=dict(one.document))
                self._bundles[key] = one
                # Where the network itself has an accuracy, what was made of it has one.
                if self._found[key].accuracy and self._images and QUANTIZED in one.files:
                    model = self._store.put(one.files[QUANTIZED])
                    title = " ".join(key)
                    quantized[key] = evaluate_job(model, self._images, title, self._used[key[0]])
        done = self._do(list(quantized.values()), self._engine)
        for key, result in zip(quantized, done, strict=True):
            if isinstance(result, JobFailed):
                self._set([key], refused=str(result), failed=result.cause not in _REFUSED)
            else:
                self._take_accuracy([key], result, "quantized")

    def _do(self, jobs: Sequence[Job], engine: Engine) -> list[Ended]:
        return run_jobs(jobs, self._store, engine, self._progress, failures="return")

    def _take_accuracy(self, keys: "Iterable[Key]", result: Result, of: str) -> None:
        said = result.document["accuracy"]
        interval = Interval(said["share"], said["low"], said["high"])
        self._set(keys, accuracy=interval, accuracy_of=of, part=result.document["part"])

    def _keys_of(self, name: str) -> "Iterator[Key]":
        return (key for key in self._found if key[0] == name)

    def _set(self, keys: "Iterable[Key]", **values: Any) -> None:
        for key in list(keys):
            self._found[key] = replace(self._found[key], **values)


Key = tuple[str, str, str]
Asked = tuple[Job, list[Key]]


def _model_of(network: Network, classes: int | None) -> onnx.ModelProto:
    if network.model is not None:
        return load_model(network.model)
    spec = network.spec
    assert spec is not None, "a network is a file or is built"
    if classes is not None and not network.says_classes:
        spec = replace(spec, classes=classes)
    return build_model(spec, network.weights)
