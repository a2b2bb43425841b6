"""TVM's MetaSchedule, asked for schedules of TVM's operators; what it proposes we measure.

    what TVM wrote  →  its rules for CPUs  →  evolution of traces  →  contests  →  evolution of …

Its builders and runners are not used: a contest compares candidates with the general schedule on
one input, on every device that we have, and checks what they compute. Nor is its model of costs,
which needs xgboost. The evolution mutates the best traces that were measured and draws others at
random, which serves searches of some dozens of candidates.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import Schedule, Trace
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api

from mbv3c.lowering.traced import Operator, Traced
from mbv3c.tuning.database import Record
from mbv3c.tuning.search import Search

_AT_ONCE = 12
_MOST_TRIALS = 1_000_000  # we count them ourselves
_EMPTY_DRAWS = 3  # without a new candidate, after which there is no other

# Small: of the default population of 512 a draw takes half a minute.
_EVOLUTION: dict[str, Any] = {
    "population_size": 32,
    "init_measured_ratio": 0.25,
    "init_min_unmeasured": 12,
    "genetic_num_iters": 2,
}
_VECTOR = 16  # numbers; the stock rules make vectors of 64, which fill registers by themselves
_LONGEST_UNROLLED = [0, 16, 64, 512]
_TILE = 64  # the longest innermost loop
_JOBS = 16  # of a core, at most, as in the stock rules


@dataclass
class TraceSearch(Search):
    """The state of the search for one of TVM's operators: tiles are drawn as it goes on.

    Attributes:
        space: what proposes traces; None if TVM has no rules for the operator.
        fault: why that is so, in TVM's words; empty for no fault.
    """

    space: "_Space | None" = None
    fault: str = ""

    @property
    def done(self) -> bool:
        return self.space is None and len(self.seen) >= len(self.tiles)

    def next(self, count: int, random: np.random.Generator) -> list[int]:
        """Return up to `count` tiles that were not measured: what others found, then new ones."""
        waiting = [at for at in range(len(self.tiles)) if at not in self.seen]
        known = {tile.trace for tile in self.tiles}
        empty = 0
        while len(waiting) < count and self.space is not None:
            try:
                drawn = self.space.draw()
            except Exception as error:  # rules raise whatever they meet
                self.fault, drawn = str(error).strip().splitlines()[-1], None
            fresh = [trace for trace in drawn or () if trace not in known]
            empty = 0 if fresh else empty + 1
            if drawn is None or empty == _EMPTY_DRAWS:
                self.space = None
            for trace in dict.fromkeys(fresh):
                known.add(trace)
                waiting.append(len(self.tiles))
                self.tiles.append(Traced(trace))
        return waiting[:count]

    def learn(self, costs: dict[int, float | None]) -> None:
        super().learn(costs)
        for at, cost in costs.items():
            if cost is not None and self.space is not None:
                self.space.learn(self.tiles[at].trace, cost)


def start(
    operator: Operator,
    target: tvm.target.Target,
    known: Sequence[Record],
    promising: Mapping[str, Any] | None,
    seed: int,
) -> TraceSearch:
    """Begin a search for a schedule of one of TVM's operators.

    Args:
        operator: the operator.
        target: TVM's target, a CPU.
        known: what earlier searches measured of it.
        promising: a choice that is measured first.
        seed: seed by which candidates are drawn.
    """
    traces = [str(record.knobs["trace"]) for record in known]
    first = str(promising["trace"]) if promising else ""
    tiles = [Traced(trace) for trace in dict.fromkeys(("", *traces, first))]
    numbers = {tile.trace: at for at, tile in enumerate(tiles)}
    space = _Space(operator, target, zlib.crc32(f"{seed} {operator.typical}".encode()))
    seen: dict[int, float | None] = {}
    for record in known:
        trace, cost = str(record.knobs["trace"]), record.relative
        seen[numbers[trace]] = cost
        if cost is not None and trace:
            space.learn(trace, cost)
    seen[0] = 1.0
    earliest = tuple(at for at in (numbers[first],) if at not in seen)
    return TraceSearch(tiles, seen, first=earliest, space=space)


@dataclass
class _Space:
    """The traces that MetaSchedule's rules allow for an operator.

    Attributes:
        seed: seed by which traces are drawn.
    """

    operator: Operator
    target: tvm.target.Target
    seed: int
    _measured: dict[str, float] = field(default_factory=dict)
    _drawn: dict[str, Any] = field(default_factory=dict)
    _context: Any = None
    _database: Any = None

    def learn(self, trace: str, relative: float) -> None:
        """Remember what a trace costs, relative to the general schedule."""
        self._measured[trace] = relative
        if self._context is not None:
            self._commit(trace, relative)

    def draw(self) -> list[str] | None:
        """Return traces that follow from what was measured; None if there are no others."""
        if self._context is None:
            self._begin()
        candidates = self._context.generate_measure_candidates()
        if candidates is None:
            return None
        # It only counts results; what they are it reads from the database.
        result = ms.runner.RunnerResult([1.0], None)
        self._context.notify_runner_results(candidates, [result] * len(candidates))
        drawn = {_text(candidate.sch.trace): candidate for candidate in candidates}
        self._drawn.update(drawn)
        return list(drawn)

    def _begin(self) -> None:
        module = Schedule(self.operator.function.with_attr("global_symbol", "main")).mod
        space = ms.space_generator.PostOrderApply(
            sch_rules=_rules(), postprocs=_postprocs(), mutator_probs="llvm"
        )
        strategy = ms.search_strategy.EvolutionarySearch(**_EVOLUTION)
        # TuneContext's constructor in Python parses hundreds of intrinsics for GPUs first, which
        # takes twenty seconds. One thread, so that a seed gives the same traces each time.
        seed = self.seed % (2**31 - 1) + 1
        self._context = _ffi_api.TuneContext(
            module, self.target, space, strategy, "operator", 1, seed, lambda *_: None
        )
        _ffi_api.TuneContextInitialize(self._context)
        self._database = ms.database.MemoryDatabase()
        for trace, relative in self._measured.items():
            self._commit(trace, relative)
        model = ms.cost_model.RandomModel(seed=self.seed)
        self._context.pre_tuning(_MOST_TRIALS, _AT_ONCE, database=self._database, cost_model=model)

    def _commit(self, trace: str, relative: float) -> None:
        module = self._context.mod
        if trace in self._drawn:
            applied = self._drawn[trace].sch.trace
        else:
            plan = Schedule(module)
            try:
                Trace.apply_json_to_schedule(json.loads(trace), plan)
            except Exception:
                return  # nothing to evolve; as a candidate it is told
            applied = plan.trace
        self._database.commit_tuning_record(
            ms.database.TuningRecord(
                applied,
                self._database.commit_workload(module),
                [relative],
                self.target,
                ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=False),
            )
        )


def _text(trace: Any) -> str:
    # Numbers among its steps are TVM's own.
    return json.dumps(trace.as_json(), separators=(",", ":"), default=lambda number: number.value)


def _rules() -> list[Any]:
    """Return the stock rules for CPUs.

    Loops are shared among cores by every trace, which `traced` undoes for one core. So what was
    found on one core serves every number of cores.
    """
    rule = ms.schedule_rule
    inlined = {
        "into_producer": False,
        "into_consumer": True,
        "inline_const_tensor": True,
        "disallow_if_then_else": True,
        "require_injective": True,
        "require_ordered": True,
        "disallow_op": ["tirx.exp"],
    }
    return [
        rule.AutoInline(**inlined),
        rule.AddRFactor(max_jobs_per_core=_JOBS, max_innermost_factor=_TILE),
        rule.MultiLevelTiling(
            structure="SSRSRS",
            max_innermost_factor=_TILE,
            reuse_write=rule.ReuseType(req="may", levels=[1, 2], scope="global"),
        ),
        rule.ParallelizeVectorizeUnroll(
            max_jobs_per_core=_JOBS,
            max_vectorize_extent=_VECTOR,
            unroll_max_steps=_LONGEST_UNROLLED,
            unroll_explicit=True,
        ),
        rule.RandomComputeLocation(),
    ]


def _postprocs() -> list[Any]:
    """Return the stock steps that end a trace, without the one that lays weights out anew."""
    return [
        ms.postproc.DisallowDynamicLoop(),
        ms.postproc.RewriteParallelVectorizeUnroll(),
        ms.postproc.RewriteReductionBlock(),
    ]
