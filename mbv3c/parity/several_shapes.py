"""The verdict on a bundle that was compiled for several shapes of its inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mbv3c.parity.tolerance import Tolerance
from mbv3c.parity.verdict import Check, Pairs, Verdict


@dataclass(frozen=True)
class ShapesVerdict:
    """The verdicts on all shapes: one that is missed makes the whole missed.

    Attributes:
        verdicts: the verdict on every shape, by the shape as `feeds.shape_text` writes it.
    """

    verdicts: dict[str, Verdict]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts.values())

    @property
    def ran_on(self) -> str:
        return self._first.ran_on

    @property
    def exact_program(self) -> bool:
        return all(verdict.exact_program for verdict in self.verdicts.values())

    @property
    def pairs(self) -> Pairs:
        """All outputs: the inputs of the first shape, then those of the second, and so on."""
        return tuple(row for verdict in self.verdicts.values() for row in verdict.pairs)

    @property
    def standing(self) -> Tolerance | None:
        return self._first.standing

    @property
    def missed(self) -> Sequence[str]:
        return [f"{shape}: {text}" for shape, one in self.verdicts.items() for text in one.missed]

    @property
    def _first(self) -> Verdict:
        return next(iter(self.verdicts.values()))

    def checks(self) -> list[Check]:
        return [
            replace(check, name=f"{shape}: {check.name}")
            for shape, verdict in self.verdicts.items()
            for check in verdict.checks()
        ]

    def errors(self) -> list[dict[str, Any]]:
        return [
            {**error, "name": f"{shape}: {error['name']}"}
            for shape, verdict in self.verdicts.items()
            for error in verdict.errors()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys: those of the shape nearest to its limit, then all shapes."""
        documents = {shape: verdict.to_json() for shape, verdict in self.verdicts.items()}
        worst = max(documents.values(), key=_of_allowed)
        return {
            **worst,
            "passed": self.passed,
            "exact_program": self.exact_program,
            "shapes": [{"shape": shape, **one} for shape, one in documents.items()],
        }

    def lines(self) -> list[str]:
        return [f"{shape}: {line}" for shape, one in self.verdicts.items() for line in one.lines()]


def _of_allowed(document: dict[str, Any]) -> tuple[bool, float]:
    """Return how near a verdict is to a miss, for comparisons."""
    error, allowed = document["max_error_of_range"], document["tolerance"]
    far = float("inf") if error is None or not allowed else error / allowed
    return not document["passed"], far
