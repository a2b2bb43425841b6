"""What a pass says about what it did."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

FAILED_PROOF = "failed its proof"


@dataclass(frozen=True)
class Removal:
    """Operators that are gone after a pass, where it finds them as it needs them.

    Attributes:
        operators: ONNX operators of the default domain.
        where: which of these nodes, as the end of "it removes such nodes only …".
    """

    operators: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class Refusal:
    """A place that looked like a match but was left alone.

    Attributes:
        node: name of the last node of the place.
        reason: why it was left alone.
    """

    node: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a change.

    Attributes:
        max_error_of_range: largest error found, as a fraction of the output's range.
        allowed: the tolerance where that error was found.
        reason: why the change must not be made; empty if it may.
    """

    max_error_of_range: float
    allowed: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Proof:
    """What a judge said of one rewrite.

    Attributes:
        node: the place, as `PassReport.matched` names it; of a pass that was judged as a whole,
            the pass.
        verdict: what the judge said; where it did not pass, the rewrite was not made.
    """

    node: str
    verdict: Verdict


@dataclass(frozen=True)
class PassReport:
    """The outcome of one pass over one graph.

    Attributes:
        name: the pass.
        matched: names of the nodes that were rewritten, in graph order.
        refused: places left alone, with reasons.
        nodes_before: number of nodes before the pass.
        nodes_after: number of nodes after it.
        changed: whether the graph is a different one now.
        proofs: what the judge, if there was one, said of each rewrite.
    """

    name: str
    matched: tuple[str, ...]
    refused: tuple[Refusal, ...]
    nodes_before: int
    nodes_after: int
    changed: bool
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True)
class Change:
    """Two models with the same inputs and outputs, in order, that must compute the same.

    Attributes:
        before: what is replaced.
        after: what replaces it.
        whole: whether these are the whole graphs, or only what one rewrite touches.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    whole: bool


Judge = Callable[[Change], Verdict]
