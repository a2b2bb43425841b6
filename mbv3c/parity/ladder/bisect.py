"""Find the smallest part of a model that a broken stage gets wrong.

The model is cut where its blocks meet, and each part goes through that stage alone: halves, the
half of it that fails, and so on. What is left is then cut shorter from its end and from its start
as long as it fails. No tensor within a part becomes an output, because that would change what is
fused, and hide what is wrong.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.errors import Mbv3cError
from mbv3c.parity.compare import compare
from mbv3c.parity.ladder.parts import ModelPart, Parts
from mbv3c.parity.ladder.stages import Stage
from mbv3c.parity.reference import ReferenceOutput, run_reference, tensors_of
from mbv3c.parity.tolerance import TOLERANCES

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """What a part has shown by itself.

    Attributes:
        part: the part.
        x: its input, as the model's reference computes it.
        max_error_of_range: of what the stage makes of it, over the range of what it should give.
        allowed: the tolerance.
        kernels: of a library, its kernels with the nodes that they cover.
    """

    part: ModelPart
    x: NDArray[np.float32]
    max_error_of_range: float
    allowed: float
    kernels: tuple[str, ...]

    @property
    def failed(self) -> bool:
        return not self.max_error_of_range <= self.allowed


def check_part(stage: Stage, part: ModelPart, x: NDArray[np.float32], folder: Path) -> Shown:
    """Put a part through a stage and compare it with onnxruntime, or what the stage says.

    `folder` takes the files that the stage makes.

    Raises:
        Mbv3cError: the stage cannot take this part.
    """
    made = stage.make(part.model, folder)
    references = list(run_reference(part.model, [x]))
    if made.wanted is not None:
        references = [
            [ReferenceOutput(one.name, y, 0.0, None) for one, y in zip(theirs, ours, strict=True)]
            for theirs, ours in zip(references, made.wanted([x]), strict=True)
        ]
    tolerance = TOLERANCES[stage.precision]
    (row,) = compare(
        made.run([x]), references, tolerance, ran_on=stage.ran_on, exact_program=True
    ).inputs
    return Shown(part, x, row.max_error_of_range, row.allowed, made.kernels)


@dataclass
class Bisection:
    """The search in one model.

    Attributes:
        stage: which breaks.
        model: what enters it.
        x: an input on which it breaks.
        progress: is told what is tried.
        tried: how many parts were.
    """

    stage: Stage
    model: onnx.ModelProto
    x: NDArray[np.float32]
    progress: Progress
    tried: int = 0
    _known: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def smallest(self, output: str) -> Shown | None:
        """Return the smallest part found that fails; None if `output` by itself does not."""
        parts = Parts(self.model)
        ends = [*parts.bottlenecks(), (output, output)]
        shown = self._check(parts, parts.input, output)
        if shown is None or not shown.failed:
            return None
        low, high = 0, len(ends) - 1
        while high - low > 1:
            middle = (low + high) // 2
            for first, last in ((low, middle), (middle, high)):
                half = self._check(parts, ends[first][0], ends[last][1])
                if half is not None and half.failed:
                    shown, low, high = half, first, last
                    break
            else:
                break  # only both together fail
        return self._shorter(parts, shown)

    def _shorter(self, parts: Parts, shown: Shown) -> Shown:
        """Cut a part that fails shorter, first from its end, then from its start."""
        for exit_ in _exits(parts, shown.part):
            found = self._check(parts, shown.part.entry, exit_)
            if found is not None and found.failed:
                shown = found
                break
        for entry in _entries(parts, shown.part):
            found = self._check(parts, entry, shown.part.exit)
            if found is not None and found.failed:
                return found
        return shown

    def _check(self, parts: Parts, entry: str, exit_: str) -> Shown | None:
        """Check one part; None if there is no such part, or the stage cannot take it alone."""
        part = parts.part(entry, exit_)
        if part is None or not part.nodes:
            return None
        self.tried += 1
        names = part.nodes
        self.progress(f"part {self.tried}: {names[0]} to {names[-1]}, {part.size} nodes")
        if entry not in self._known:
            self._known |= tensors_of(self.model, self.x, {entry})
        with tempfile.TemporaryDirectory(prefix="mbv3c-part-") as folder:
            try:
                return check_part(self.stage, part, self._known[entry], Path(folder))
            except Mbv3cError as error:
                self.progress(f"part {self.tried} by itself says nothing: {error}")
                return None


def _inside(parts: Parts, part: ModelPart) -> list[str]:
    made = {name for node in part.model.graph.node for name in node.output}
    return [name for name in parts.tensors if name in made]


def _exits(parts: Parts, part: ModelPart) -> Iterator[str]:
    """Yield where a part may end earlier, the earliest first."""
    for name in _inside(parts, part):
        if name != part.exit and not parts.is_quantized(name):
            yield name


def _entries(parts: Parts, part: ModelPart) -> Iterator[str]:
    """Yield where a part may start later, the latest first."""
    for name in reversed(_inside(parts, part)):
        entry = parts.unquantized(name)
        if name != part.exit and not parts.is_quantized(name) and entry != part.entry:
            yield entry
