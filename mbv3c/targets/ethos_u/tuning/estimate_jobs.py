"""Vela's estimates as jobs: each is named by the network, the choice and the version of vela."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3c.jobs.ahead import JobsAhead
from mbv3c.jobs.job import Job
from mbv3c.progress import Progress
from mbv3c.targets.ethos_u.devices import FAMILY, WING, Knobs, NpuTarget
from mbv3c.targets.ethos_u.tuning.estimates import Estimate, Lowered, describe, estimate, key_of
from mbv3c.tuning.request import TuneRequest

_NAMED = ("key", "network", "knobs")  # what who asks knows


@contextmanager
def asker(
    target: NpuTarget, request: TuneRequest, progress: Progress
) -> Iterator["EstimateJobs | None"]:
    """Yield what asks vela in jobs, if that was asked for.

    Raises:
        UsageError: what was asked for makes no sense.
        ToolError: a cluster needs something that is not installed.
    """
    with request.jobs_ahead(progress) as jobs:
        yield None if jobs is None else EstimateJobs(target, jobs)


@dataclass(frozen=True)
class EstimateJobs:
    """Has vela asked in jobs, several at once.

    Attributes:
        target: the device.
        jobs: what has jobs done.
    """

    target: NpuTarget
    jobs: JobsAhead

    def prepare(self, network: Lowered, choices: Iterator[Knobs]) -> None:
        self.jobs.prepare(self.job(network, knobs) for knobs in choices)

    def estimate(self, network: Lowered, knobs: Knobs) -> Estimate:
        said = self.jobs.result(self.job(network, knobs)).document
        key = key_of(network.forms[knobs.mean])
        return Estimate(key, network.name, knobs.to_json(), **said)

    def job(self, network: Lowered, knobs: Knobs) -> Job:
        """Return the job of asking for a choice."""
        return Job(
            f"{__name__}:estimate_choice",
            {"target": self.target.name, "knobs": knobs.to_json()},
            {"tosa": self.jobs.store.put(network.forms[knobs.mean])},
            ("ethos-u-vela",),
            {FAMILY: 1.0},
            f"estimate of {network.name}, {describe(knobs)}",
        )


def estimate_choice(
    options: Mapping[str, Any], files: Mapping[str, Path], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Ask vela what a choice costs: a job, which returns the fields of `Estimate`."""
    family, _, device = options["target"].partition(":")
    target = WING.find(family, device)
    assert isinstance(target, NpuTarget)
    said = estimate(files["tosa"].read_bytes(), "", "", target, Knobs(**options["knobs"]))
    return {name: value for name, value in asdict(said).items() if name not in _NAMED}
