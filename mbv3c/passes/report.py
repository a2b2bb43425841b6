"""What a pass says about what it did."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

FAILED_PROOF = "failed its proof"


@dataclass(frozen=True)
class Removal:
    """Operators that a pass removes, under a condition.

    Attributes:
        operators: ONNX operators of the default domain.
        where: the condition, as the end of "it removes such nodes only …".
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
class ProofVerdict:
    """Whether a change may be made.

    Attributes:
        max_error_of_range: largest error found, as a fraction of the output's range.
        allowed: tolerance of the comparison with the largest error.
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
    """The proof of one rewrite, or of a pass as a whole.

    Attributes:
        node: name of the place, as in `PassReport.matched`, or of the pass.
        verdict: the prover's verdict; a rewrite that did not pass was not made.
    """

    node: str
    verdict: ProofVerdict


@dataclass(frozen=True)
class PassReport:
    """The outcome of one pass over one graph.

    Attributes:
        name: name of the pass.
        matched: names of the nodes that were rewritten, in graph order.
        refused: places left alone, with reasons.
        nodes_before: number of nodes before the pass.
        nodes_after: number of nodes after the pass.
        changed: whether the graph is a different one now.
        proofs: proofs of the rewrites, if a prover was asked.
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
    """Two models with equal inputs and outputs, in order, that must give equal results.

    Attributes:
        before: the model that is replaced.
        after: the model that replaces `before`.
        whole_graph: whether the models are whole graphs, not only what one rewrite touches.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    whole_graph: bool


Prover = Callable[[Change], ProofVerdict]
