"""What a judge of rewrites is given, and what it answers.

The passes know nothing of runtimes: whoever runs them may hand them a judge, which is asked about
each change before it is made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx


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


Judge = Callable[[Change], Verdict]
