"""What storing the weights of dense layers in bf16 or int8 does to a model by itself.

    x → model → y      x → model with the weights that are stored → y'

Both are computed by onnxruntime in fp32. The distance between y and y' is what storing costs; no
kernel can keep it. A kernel that is right adds no more to it than fp32's rounding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from mbv3c.feeds import Feed
from mbv3c.graphs.narrow import AS_BF16, AS_INT8
from mbv3c.parity.metrics import finite
from mbv3c.parity.reference import ReferenceOutput, error_of_range, run, session
from mbv3c.parity.tolerance import TOLERANCES

# The largest error that storing may make, as a fraction of the range. bf16 rounds a weight by
# 2^-9 of itself, int8 by 1/254 of its output's largest: seeded Small and Large come to 1e-3 to
# 3e-3 and to 4e-3 to 1.5e-2. A network beyond a few times that is better left in fp32.
MOST: dict[str, float] = {AS_BF16: 2e-2, AS_INT8: 5e-2}


@dataclass(frozen=True)
class StoredWeights:
    """How the weights of dense layers are stored, and what that does.

    Attributes:
        stored: one of `mbv3c.graphs.narrow.STORED`.
        moved: the largest error that storing makes by itself, as a fraction of an output's range.
        most: the largest such error that is allowed.
    """

    stored: str
    moved: float
    most: float

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys."""
        return dict(finite(asdict(self)))


def with_stored(
    graph: onnx.ModelProto,
    stored: str,
    inputs: Sequence[Feed],
    references: Sequence[Sequence[ReferenceOutput]],
) -> tuple[list[list[ReferenceOutput]], StoredWeights]:
    """Return references that allow what storing does to each input's outputs, and how much.

    To that comes what fp32 is allowed. Labels may be others where the scores are as near to each
    other as the largest error that is allowed at all.

    Args:
        graph: what is lowered, whose weights are rounded.
        stored: one of `mbv3c.graphs.narrow.STORED`.
        inputs: the inputs.
        references: the outputs of the model as given.
    """
    opened, most, fp32 = session(graph), MOST[stored], TOLERANCES["fp32"]
    largest, judged = 0.0, []
    for x, outputs in zip(inputs, references, strict=True):
        row = []
        for reference, y in zip(outputs, run(opened, x), strict=True):
            allowed = most
            if reference.answers is None:
                moved = error_of_range(np.asarray(y), reference.output, reference.scale)
                largest = max(largest, moved)
                rounding = fp32.allowed(reference.spread, reference.step, reference.rounding)
                allowed = min(most, moved + rounding) if np.isfinite(moved) else 0.0
            # Its float64 is that of the model as given, which storing moves away from, too.
            row.append(replace(reference, rounding=max(reference.rounding, allowed), doubt=None))
        judged.append(row)
    return judged, StoredWeights(stored, largest, most)
