"""What there is to tune in a network: its kernels of different shapes."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mbv3c.lowering.plan import Plan, Step


@dataclass(frozen=True)
class Task:
    """A kernel to tune.

    Attributes:
        kind: of its steps.
        shape: what it is written for, a dataclass of the module that writes it.
        step: the first step that needs it.
        calls: how often one inference calls it.
    """

    kind: str
    shape: Any
    step: Step
    calls: int

    @property
    def key(self) -> str:
        return key_of(self.kind, self.shape)

    @property
    def name(self) -> str:
        """Say what it is, for people."""
        first = self.step.nodes[0] if self.step.nodes else self.kind
        return first if self.calls == 1 else f"{first} and {self.calls - 1} more"


def key_of(kind: str, shape: Any) -> str:
    """Return the text under which measurements of a kernel are remembered.

    Integer kernels that differ in their zero points only, as calibration makes them, share one.
    """
    measured = getattr(shape, "typical", shape)
    return json.dumps({"kind": kind, **asdict(measured)}, sort_keys=True)


def tasks_of(plans: Iterable[Plan]) -> list[Task]:
    """Return the kernels of some networks that have knobs, each once, by their first call."""
    found: dict[str, Task] = {}
    for plan in plans:
        for step in plan.steps:
            if step.shape is None or not step.knobs:
                continue
            key = key_of(step.kind, step.shape)
            known = found.get(key)
            if known is None:
                found[key] = Task(step.kind, step.shape, step, 1)
            else:
                found[key] = Task(known.kind, known.shape, known.step, known.calls + 1)
    return list(found.values())
