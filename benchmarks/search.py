"""Networks found for an NPU and for a CPU, beside MobileNetV3's widths, and crossed over.

    mbv3c doctor --fetch=demo
    python -m benchmarks.search --write

For each target Small is adapted and networks are searched for, at a share of what Small costs
there, on Fashion-MNIST at 32 pixels. The shares are such that a width of Small costs as much and
is behind Small on these images: at half of Small's cycles the NPU takes widths from 0.6 on, and
at 0.6 of its instructions the CPU does, and those are as good as Small, so that nothing can be
seen there.

What comes out is trained from scratch, like the narrowest Small that costs at least as much on
the target, from the same seeds; and each network is also put on the other target. All trainings
are jobs and searches have journals: after any interruption the same command goes on. Needs the
extras [train], [search] and [npu].
"""

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import onnx

from benchmarks.results import replace_section
from mbv3c import __version__
from mbv3c.costs.types import time_of
from mbv3c.errors import Mbv3cError, UsageError
from mbv3c.execution.cache import cache_root
from mbv3c.execution.timing.latency import processor_name
from mbv3c.graphs.architecture import Architecture
from mbv3c.jobs.local import LocalProcesses
from mbv3c.jobs.store import Store
from mbv3c.precision import INT8
from mbv3c.search.adapted import AdaptPlan
from mbv3c.search.answers import Cost, Refused, Training, accepted
from mbv3c.search.budget import Budget, parse_budgets
from mbv3c.search.grid import Images
from mbv3c.search.halving import Halving, paired_seeds
from mbv3c.search.job_answers import Data, Device, JobAnswers
from mbv3c.search.kinds import packed
from mbv3c.search.layers import layers_of
from mbv3c.search.plan import SearchPlan
from mbv3c.search.request import SearchRequest, run_search
from mbv3c.search.space import Candidate, Space, width_family
from mbv3c.search.statistics import (
    Right,
    SeedNoise,
    contrast,
    mcnemar,
    mean_accuracy,
    seed_noise,
)
from mbv3c.search.widths import widths_beside
from mbv3c.targets import find_target
from mbv3c.training.demo import fetch_demo
from mbv3c.training.given import classes_of
from mbv3c.training.plan import TrainPlan

TITLE = "Networks found for a target"
TARGETS = ("npu:ethos-u55-128", "arm_cpu:cortex-a76")
SIDE = 32


@dataclass(frozen=True)
class Scale:
    """How long everything takes.

    Attributes:
        final: steps of each finalist, width, and of the network that is adapted.
        seeds: from so many seeds each of them is trained.
        rounds: steps of the search's rounds.
        asked, trained: networks of each of its batches.
        tune: steps of each proposal of an adaptation.
        saving: what each of its steps saves; where a cost is spread over many layers, as on a CPU,
            large steps cut single layers to nothing.
        judged: images for each bundle.
        batches: of the search.
        repeats: from so many seeds one network of each of its rounds is trained.
        budgets: what a network may take, of what Small takes, by target.
        least: what it takes at least, of the budget.
        kept: what is not cut.
    """

    final: int = 1000
    seeds: int = 5
    rounds: tuple[int, ...] = (80, 240, 720)
    asked: int = 20
    trained: int = 8
    tune: int = 40
    saving: float = 0.05
    judged: int = 1000
    batches: int = 3
    repeats: int = 3
    budgets: tuple[str, ...] = ("0.2x", "0.35x")
    least: float = 0.5
    kept: tuple[str, ...] = ()


# Two cuts, two networks to search among, trainings of a few steps.
QUICK = Scale(
    8, 2, (4,), 3, 2, 2, 0.5, 20, 1, 2, ("0.8x", "0.8x"), 0.0, ("stem", "expansion", "bottleneck")
)


@dataclass(frozen=True)
class Found:
    """A network that was found.

    Attributes:
        name: what it is called.
        made_for: its target.
        candidate: its layers.
    """

    name: str
    made_for: str
    candidate: Candidate


@dataclass
class Bench:
    """The images, what does the work, and what is known."""

    folder: Path
    source: Path
    jobs: int
    scale: Scale
    images: Images = field(init=False)
    answers: dict[str, JobAnswers] = field(init=False)

    def __post_init__(self) -> None:
        self.images = Images(self.source, test=0.0 if self.source.is_dir() else 0.2)
        self.where = (LocalProcesses(self.jobs), Store(self.folder / "jobs"))
        data = Data(
            packed(self.images, self.where[1]),
            classes_of(self.source).count,
            "test",
            self.scale.judged,
        )
        self.classes = data.classes
        self.answers = {
            target: JobAnswers(self.device(target), data, TrainPlan(1), self.where, progress)
            for target in TARGETS
        }

    def device(self, target: str) -> Device:
        return Device(find_target(target), INT8, self.folder / "costs")

    def budget(self, target: str) -> tuple[Budget, ...]:
        return parse_budgets([dict(zip(TARGETS, self.scale.budgets, strict=True))[target]])

    def trained(self, candidate: Candidate, seeds: int | None = None) -> list[Training]:
        """Return the trainings of a network."""
        count = seeds or self.scale.seeds
        return [
            Training(candidate, self.scale.final, seed, "test") for seed in paired_seeds(0, count)
        ]

    def searched(self, target: str) -> Candidate:
        """Search for a network, and return the best one."""
        scale = self.scale
        request = SearchRequest(
            self.device(target),
            self.images,
            self.budget(target),
            None,
            scale.least,
            Space("small", (SIDE,)),
            SearchPlan(
                Halving(scale.rounds, least=1, bands=2),
                batches=scale.batches,
                asked=scale.asked,
                trained=scale.trained,
                repeats=scale.repeats,
                final_steps=scale.final,
                final_seeds=scale.seeds,
            ),
            TrainPlan(1),
            scale.judged,
        )
        found = run_search(request, self.folder / f"search-{_short(target)}", self.where, progress)
        (finalist,) = found.finalists
        return finalist.candidate

    def adapted(self, target: str) -> Candidate:
        """Adapt Small to a target, and return the layers that are left."""
        from mbv3c.search.adapt_run import AdaptRequest, Finishing, adapt_model

        base = self.trained(width_family("small", SIDE)[1.0], 1)
        self.answers[target].train(base)
        model = onnx.load(self.answers[target].model(base[0]))
        device = self.device(target)
        request = AdaptRequest(
            device.target,
            device.precision,
            self.images,
            AdaptPlan(self.budget(target), self.scale.saving, kept=self.scale.kept),
            TrainPlan(self.scale.tune, rate=0.05, fresh=False),
            Finishing("none"),
            device.database,
            self.folder / f"adapt-{_short(target)}",
        )
        layers = layers_of(adapt_model(model, request, self.where, progress).adapted.model)
        if not isinstance(layers, Architecture):
            raise UsageError(f"the adapted network is no architecture: {layers}")
        return Candidate(layers, SIDE)


@dataclass(frozen=True)
class Row:
    """A network on a target, beside the width that costs at least as much there."""

    found: Found
    target: str
    cost: float
    unit: str
    width: float | None
    width_cost: float
    rights: Sequence[Right]
    beside: Sequence[Right]

    def cells(self, noise: SeedNoise | None) -> list[str]:
        own, theirs = (_mean(rights, noise) for rights in (self.rights, self.beside))
        difference = contrast([(1.0, self.rights), (-1.0, self.beside)], noise)
        paired = mcnemar(self.rights[0], self.beside[0])
        width = "none so dear; 1.25" if self.width is None else f"{self.width:g}"
        return [
            self.found.name,
            self.target,
            f"{self.cost:,.0f} {self.unit}",
            own,
            f"{width}: {self.width_cost:,.0f}",
            theirs,
            f"{difference.share * 100:+.2f} ({difference.low * 100:+.2f} to "
            f"{difference.high * 100:+.2f})",
            f"{paired.p:.2g}",
        ]


def _mean(rights: Sequence[Right], noise: SeedNoise | None) -> str:
    found = mean_accuracy(rights, noise)
    return f"{found.share:.2%} ({found.low:.2%} to {found.high:.2%})"


def measure(bench: Bench) -> str:
    """Do everything, and return the section of the results."""
    found = []
    for target in TARGETS:
        progress(f"adapting Small to {target}")
        found.append(Found(f"adapted to {_short(target)}", target, bench.adapted(target)))
    for target in TARGETS:
        progress(f"searching for {target}")
        found.append(Found(f"searched for {_short(target)}", target, bench.searched(target)))
    rows, refused = list[Row](), list[str]()
    for target in TARGETS:
        progress(f"putting all networks on {target}, beside widths of Small")
        taken = []
        candidates = [each.candidate for each in found]
        for each, cost in zip(
            found, bench.answers[target].costs(candidates, whole=True), strict=True
        ):
            if isinstance(cost, Refused):
                refused.append(f"{target} refuses the network {each.name}: {cost.reason}")
            else:
                taken.append(each)
        rows += _rows(bench, target, taken)
    # A network stands in several rows, and counts once for the noise.
    trained = {each[0].tobytes(): each for row in rows for each in (row.rights, row.beside)}
    noise = seed_noise([[float(right.mean()) for right in each] for each in trained.values()])
    heads = ["network", "on", "cost", "accuracy", "width of Small: cost", "its accuracy"]
    heads += ["difference, points", "p, first seeds"]
    table = _markdown([heads, *(row.cells(noise) for row in rows)])
    parts = [_head(bench, noise), table, *refused, _crossed(rows, noise), _bundles(bench, found)]
    return "\n\n".join(parts)


def _rows(bench: Bench, target: str, found: Sequence[Found]) -> list[Row]:
    """Put networks on a target that takes them, beside widths."""
    if not found:
        return []
    answers = bench.answers[target]
    family = width_family("small", SIDE)

    def known_costs(candidates: Sequence[Candidate], *, whole: bool = False) -> list[Cost]:
        return accepted(candidates, answers.costs(candidates, whole=whole))

    def ask(candidates: Sequence[Candidate]) -> list[float]:
        return [cost[unit] for cost in known_costs(candidates)]

    costs = known_costs([each.candidate for each in found], whole=True)
    unit = time_of(costs[0])
    places = widths_beside(ask([each.candidate for each in found]), family, ask)
    widths = [place.above or place.below or 1.0 for place in places]
    beside = known_costs([family[width] for width in widths], whole=True)
    candidates = [*(each.candidate for each in found), *(family[width] for width in widths)]
    trainings = {each: bench.trained(each) for each in candidates}
    rights = iter(answers.train([one for group in trainings.values() for one in group]))
    known = {each: [next(rights) for _ in group] for each, group in trainings.items()}
    return [
        Row(
            each,
            target,
            cost[unit],
            unit,
            place.above,
            width_cost[unit],
            known[each.candidate],
            known[family[width]],
        )
        for each, cost, place, width, width_cost in zip(
            found, costs, places, widths, beside, strict=True
        )
    ]


def _crossed(rows: Sequence[Row], noise: SeedNoise | None) -> str:
    """Say what putting a network on the other target shows."""
    own = [row for row in rows if row.target == row.found.made_for]
    crossed = [row for row in rows if row.target != row.found.made_for]
    better = {
        name: sum(
            contrast([(1.0, row.rights), (-1.0, row.beside)], noise).low > 0 for row in group
        )
        for name, group in (("own", own), ("crossed", crossed))
    }
    ratios = {target: _dearer(rows, target) for target in TARGETS}
    said = "; ".join(
        f"on {target} networks for the other target cost {ratio:.2f} of what its own cost, so "
        f"{'what is cheap elsewhere is dear there' if ratio > _APART else 'they serve there, too'}"
        for target, ratio in ratios.items()
        if ratio is not None
    )
    return (
        f"On the target that they were made for {better['own']} of {len(own)} networks beat the "
        f"width of equal cost beyond the noise; on the other one {better['crossed']} of "
        f"{len(crossed)} do. Crossed over: {said}."
    )


_APART = 1.05  # of the cost, from which it counts


def _dearer(rows: Sequence[Row], target: str) -> float | None:
    """Return what networks for other targets cost on one, of what those made for it cost."""
    costs = {
        is_own: [
            row.cost
            for row in rows
            if row.target == target and (row.found.made_for == target) is is_own
        ]
        for is_own in (True, False)
    }
    return fmean(costs[False]) / fmean(costs[True]) if all(costs.values()) else None


def _bundles(bench: Bench, found: Sequence[Found]) -> str:
    """Compile each network for its own target, and run it on images."""
    rows = [["network", "target", "fp32", "int8", "bundle", "images", "ran on"]]
    for each in found:
        training = bench.trained(each.candidate, 1)
        (document,) = bench.answers[each.made_for].compile(training)
        if "refused" in document:
            rows.append([each.name, each.made_for, f"refused: {document['refused']}", *[""] * 4])
            continue
        accuracy = document["accuracy"]
        shares = [
            f"{accuracy[side]['share']:.1%} ({accuracy[side]['low']:.1%} to "
            f"{accuracy[side]['high']:.1%})"
            for side in ("given", "quantized", "bundle")
        ]
        count = str(accuracy["bundle"]["of"])
        rows.append([each.name, each.made_for, *shares, count, document["accuracy_on"]])
    return _markdown(rows)


def _head(bench: Bench, noise: SeedNoise | None) -> str:
    scale = bench.scale
    budgets = " and ".join(
        f"{budget} ({target})" for target, budget in zip(TARGETS, scale.budgets, strict=True)
    )
    spread = "unknown" if noise is None else f"{noise.deviation * 100:.2f} points"
    return (
        f"{datetime.datetime.now(datetime.UTC).date().isoformat()}, {processor_name()}, mbv3c "
        f"{__version__}; `python -m benchmarks.search --write`. Fashion-MNIST at {SIDE} pixels; "
        f"budget {budgets} of MobileNetV3-Small; int8 costs: cycles are vela's estimates, "
        f"instructions are counted on an emulated Cortex-A76. Each network, also the widths of "
        f"Small, is trained from scratch for {scale.final} steps of 128 from {scale.seeds} seeds, "
        f"and judged on 10,000 test images, by which nothing was chosen. The width is the "
        f"narrowest that costs at least as much on the target. Intervals of 95 % have the noise "
        f"of the images and that of the seeds (standard deviation {spread}, pooled)."
    )


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _short(target: str) -> str:
    return target.partition(":")[2] or target


_START = time.monotonic()


def progress(step: str) -> None:
    print(f"[{time.monotonic() - _START:6.1f} s] {step}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--folder", type=Path, help="what goes on after an interruption")
    parser.add_argument("--images", type=Path, help="other images than Fashion-MNIST")
    parser.add_argument("--jobs", type=int, default=0, help="how much at once")
    parser.add_argument("--quick", action="store_true", help="too short to show anything")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    given = parser.parse_args()
    try:
        source = given.images or fetch_demo(progress)
        scale = QUICK if given.quick else Scale()
        name = "benchmark-search-quick" if given.quick else "benchmark-search"
        folder = given.folder or cache_root() / name
        body = measure(Bench(folder, source, given.jobs, scale))
    except Mbv3cError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(body)
    if given.write:
        replace_section(TITLE, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
