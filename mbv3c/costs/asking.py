"""Ask what networks cost: what the table knows comes from there, what it lacks is asked for."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import onnx

from mbv3c.costs.database import CostContext, CostTable
from mbv3c.costs.questions import Question
from mbv3c.costs.types import NetworkCost
from mbv3c.progress import Progress


class Coster(Protocol):
    """Finds out what networks cost on one target in one precision.

    Attributes:
        context: what decides costs beside the network.
        time: the resource that stands for time.
    """

    @property
    def context(self) -> CostContext: ...

    @property
    def time(self) -> str: ...

    def check(self) -> None:
        """Make sure that the tools are here.

        Raises:
            ToolError: one is missing.
            UsageError: nothing here finds out.
        """

    def ask(
        self, questions: Sequence[Question], table: CostTable, progress: Progress
    ) -> list[NetworkCost]:
        """Find out what networks cost that the table does not know, and fill it on the way.

        Raises:
            Mbv3cError: a network cannot be compiled, or a tool fails.
        """

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        """Have the tools compile whole networks with their own weights.

        Raises:
            Mbv3cError: a network cannot be compiled, or a tool fails.
        """


def answers(
    coster: Coster,
    models: Sequence[onnx.ModelProto],
    database: Path,
    progress: Progress,
    *,
    whole: bool = False,
) -> list[NetworkCost]:
    """Return what networks cost.

    Args:
        coster: what finds out.
        models: the networks; without `whole` only their form counts, and not their weights.
        database: the folder of all databases.
        progress: function that is told what is being done.
        whole: whether to have whole networks compiled, instead of adding layers up.

    Raises:
        CostDatabaseError: the database cannot be read or written.
        Mbv3cError: as `Coster` says.
    """
    table = _table(database, coster.context)
    damaged = table.damaged
    table.refresh()
    if table.damaged > damaged:
        progress(f"warning: {table.path} has damaged lines; what they held is asked for again")
    questions = [Question(model) for model in models]
    names = [_name(question, whole=whole) for question in questions]
    missing = {
        name: question
        for name, question in zip(names, questions, strict=True)
        if name not in table.networks
    }
    if missing:
        coster.check()
        if whole:
            found = coster.ask_whole([each.model for each in missing.values()], progress)
        else:
            found = coster.ask(list(missing.values()), table, progress)
        table.add(networks=dict(zip(missing, found, strict=True)))
    return [table.networks[name] for name in names]


_tables: dict[tuple[str, str], CostTable] = {}


def _table(folder: Path, context: CostContext) -> CostTable:
    """Return the table of a context, which one process reads once."""
    key = str(folder.absolute()), context.digest
    if key not in _tables:
        _tables[key] = CostTable(folder, context)
    return _tables[key]


def _name(question: Question, *, whole: bool) -> str:
    """Return what a network is known by; asked for as a whole, its weights are a part of it."""
    if not whole:
        return question.digest
    model = question.model.SerializeToString(deterministic=True)
    return f"whole {hashlib.sha256(model).hexdigest()[:32]}"
