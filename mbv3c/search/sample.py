"""Ask for networks of a space, and tell what they were worth: Optuna's samplers.

TPE (J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011) maximises a
reward; NSGA-II (K. Deb et al., IEEE Trans. Evol. Comput. 6 (2002), 182-197) keeps a front of
accuracy and cost. Nothing is kept in a database of Optuna's: a search asks and tells what its own
journal holds once more, in the order of the first time, and so the sampler comes to where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal, get_args

from mbv3c.errors import ToolError, UsageError
from mbv3c.installing import install_extra
from mbv3c.nearest import among
from mbv3c.search.space import Picked, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

Method = Literal["tpe", "nsga2", "random"]

_LEAST_POPULATION = 4


@dataclass(frozen=True)
class Asked:
    """A network that the sampler wants to know about.

    Attributes:
        number: number of the question, from 0.
        picked: the place of each choice's value.
    """

    number: int
    picked: Picked


def check_sampler(method: str) -> str:
    """Make sure that a sampler is there, and return what it is, with its version.

    Raises:
        UsageError: there is no such method.
        ToolError: Optuna is not installed.
    """
    if method not in get_args(Method):
        raise UsageError(f"unknown --sampler {method!r}{among(method, get_args(Method))}")
    try:
        return f"{method} of optuna {metadata.version('optuna')}"
    except metadata.PackageNotFoundError as error:
        raise ToolError(
            "searching needs Optuna, which is not installed; install it with "
            f"`{install_extra('search')}`"
        ) from error


class Sampler:
    """A sampler of Optuna's over a space.

    Equal arguments and equal answers give equal questions.
    """

    def __init__(self, space: Space, method: Method, seed: int, population: int) -> None:
        """Begin.

        Args:
            space: the networks.
            method: which sampler.
            seed: seed of its random numbers.
            population: networks in a generation of NSGA-II, or drawn before TPE begins to model.

        Raises:
            UsageError: there is no such method.
            ToolError: Optuna is not installed.
        """
        check_sampler(method)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        population = max(_LEAST_POPULATION, population)
        self._tells_cost = method == "nsga2"
        sampler: BaseSampler
        if method == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        elif method == "random":
            sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(n_startup_trials=population, seed=seed)
        directions = ["maximize", "minimize"] if self._tells_cost else ["maximize"]
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._failed = optuna.trial.TrialState.FAIL
        self._pruned = optuna.trial.TrialState.PRUNED
        self._space: dict[str, BaseDistribution] = {
            choice.name: optuna.distributions.IntDistribution(0, len(choice.values) - 1)
            if choice.ordered
            else optuna.distributions.CategoricalDistribution(range(len(choice.values)))
            for choice in space.choices
        }
        self._open: dict[int, Trial] = {}

    def ask(self, count: int) -> list[Asked]:
        """Ask for networks; nothing is told in between, and equal ones may be among them."""
        asked = []
        for _ in range(count):
            trial = self._study.ask(self._space)
            self._open[trial.number] = trial
            asked.append(Asked(trial.number, {k: int(v) for k, v in trial.params.items()}))
        return asked

    def tell(self, asked: Asked, reward: float, accuracy: float, cost: float) -> None:
        """Tell what a network was worth: its reward, and of which accuracy and cost it is."""
        values: Sequence[float] = [accuracy, cost] if self._tells_cost else [reward]
        trial = self._open.pop(asked.number)
        trial.set_constraint("budget", 0.0)
        self._study.tell(trial, values)

    def reject(self, asked: Asked, excess: float) -> None:
        """Tell that a network does not meet the budget, and by how much."""
        trial = self._open.pop(asked.number)
        trial.set_constraint("budget", excess)
        self._study.tell(trial, state=self._pruned)

    def drop(self, asked: Asked) -> None:
        """Tell that nothing will be known about a network."""
        self._study.tell(self._open.pop(asked.number), state=self._failed)
