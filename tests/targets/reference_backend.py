"""A fourth backend in one module: onnxruntime itself, as if it were a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mbv3c.bundle import Bundle, Golden
from mbv3c.execution.device.place import Place
from mbv3c.execution.runners import Runnable
from mbv3c.feeds import Array, Feed
from mbv3c.job import Job
from mbv3c.parity.ladder.ladder import Ladder
from mbv3c.parity.ladder.stages import StageResult
from mbv3c.parity.reference import ReferenceOutput, run, run_reference, session
from mbv3c.precision import FP32
from mbv3c.prepare import Prepared
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets.backend import Backend, Built
from mbv3c.targets.wing import Wing

PROGRAM = "program.onnx"


@dataclass(frozen=True)
class OrtRunner:
    description: str = "onnxruntime"

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        opened = session(onnx.load(bundle / PROGRAM))
        return [run(opened, x) for x in inputs]


@dataclass(frozen=True)
class OrtStages:
    """One stage: the program. Also a stage of the ladder, which goes part by part."""

    bundle: Bundle
    ladder: Ladder
    least_cosine: float | None = None
    name: str = "program"
    ran_on: str = "onnxruntime"
    precision: str = "fp32"
    script: str = "rewrite"

    def references(self, quantized: onnx.ModelProto) -> list[list[ReferenceOutput]]:
        return list(run_reference(quantized, self.ladder.inputs))

    def climb(self, model: onnx.ModelProto) -> None:
        self.ladder.add(self, model, OrtRunner().run(self.bundle.path, self.ladder.inputs), 0.0)

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        onnx.save(model, folder / PROGRAM)
        return StageResult(lambda inputs: OrtRunner().run(folder, list(inputs)))

    def blame(self, given: onnx.ModelProto) -> None:
        self.ladder.silent = "the program is not what its model gives"


class OrtBackend(Backend):
    wing = WING = Wing(__name__, (Target("ort", "cpu"),), {"ort": "cpu"}, (FP32,))

    def lower(self, prepared: Prepared, job: Job, progress: Progress) -> onnx.ModelProto:
        return prepared.graph

    def build(self, prepared: Prepared, lowered: Any, job: Job, folder: Path) -> Built:
        onnx.save(lowered, folder / PROGRAM)
        outputs = [np.asarray(one.output) for one in prepared.reference.outputs[0]]
        count = len(outputs)
        golden = Golden(prepared.reference.inputs[0], outputs, [1e-5] * count, [False] * count)
        return Built(None, golden)

    @contextmanager
    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        place: Place | None = None,
        *,
        stand_in: bool = True,
    ) -> Iterator[Runnable]:
        yield Runnable(bundle.path, OrtRunner(), "onnxruntime")

    def stages(
        self, bundle: Bundle, ladder: Ladder, progress: Progress, place: Place | None = None
    ) -> OrtStages:
        return OrtStages(bundle, ladder)


BACKEND = OrtBackend()
WING = BACKEND.wing
