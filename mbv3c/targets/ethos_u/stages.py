"""The stages of compiling for an Ethos-U: TOSA, in Arm's reference model, and the command stream.

The reference for TOSA is onnxruntime on the QDQ model. The reference for the command stream is
TOSA, bit for bit.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbv3c.parity.ladder.stages import Array, Inputs, StageResult
from mbv3c.targets.ethos_u.host import run_host
from mbv3c.targets.ethos_u.interpreter.errors import InterpreterError, StreamError
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import Program, read_program
from mbv3c.targets.ethos_u.lowering.region import Boundary, Region
from mbv3c.targets.ethos_u.tosa_model import run_tosa

TOSA, STREAM, ENDS, VELA = "part.tosa", "part_vela.npz", "ends.json", "vela.json"


@dataclass(frozen=True)
class SplitNetwork:
    """What an NPU computes of a quantized model, and what stays on the CPU behind the NPU."""

    region: Region
    host: onnx.ModelProto | None

    def to_model(self, integers: list[NDArray[Any]]) -> list[Array]:
        """Return the outputs of the model for the integers that the NPU gives."""
        if self.host is not None:
            return [np.asarray(y) for y in run_host(self.host, integers)]
        pairs = zip(self.region.outputs, integers, strict=True)
        return [end.to_model(y) for end, y in pairs]

    def run_tosa(self, inputs: Inputs) -> list[list[Array]]:
        """Run TOSA on inputs of the model."""
        return [
            self.to_model(run_tosa(self.region.tosa, [self.region.inputs[0].to_device(x)]))
            for x in inputs
        ]

    def interpret(self, program: Program, inputs: Inputs) -> list[list[Array]]:
        """Run a command stream on inputs of the model; a broken stream gives NaN."""
        return [self._interpreted(program, self.region.inputs[0].to_device(x)) for x in inputs]

    def _interpreted(self, program: Program, integers: NDArray[np.int8]) -> list[Array]:
        try:
            return self.to_model(interpret(program, [integers]))
        except (StreamError, InterpreterError):
            shapes = [boundary.shape for boundary in self.region.outputs]
            if self.host is not None:
                types = [y.type.tensor_type for y in self.host.graph.output]
                shapes = [tuple(d.dim_value for d in declared.shape.dim) for declared in types]
            return [np.full(shape, np.nan, np.float32) for shape in shapes]


Lower = Callable[[onnx.ModelProto], SplitNetwork]


@dataclass(frozen=True)
class TosaStage:
    """The lowering of a QDQ model to TOSA."""

    lower: Lower
    name: str = "TOSA"
    ran_on: str = "TOSA reference model"
    precision: str = "npu"
    script: str = "tosa"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        lowered = self.lower(model)
        write_ends(lowered.region, folder)
        return StageResult(lowered.run_tosa, _operators(lowered.region))


@dataclass(frozen=True)
class StreamStage:
    """What vela makes of TOSA.

    Attributes:
        lower: lowers a QDQ model to TOSA.
        build: compiles a TOSA file; returns the .npz.
        vela: options for vela.
    """

    lower: Lower
    build: Callable[[bytes], bytes]
    vela: tuple[str, ...]
    name: str = "command stream"
    ran_on: str = "interpreter of the command stream"
    precision: str = "bits"
    script: str = "stream"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        lowered = self.lower(model)
        write_ends(lowered.region, folder)
        (folder / STREAM).write_bytes(self.build(lowered.region.tosa))
        (folder / VELA).write_text(json.dumps(self.vela) + "\n")
        program = read_program(folder / STREAM)
        return StageResult(
            lambda inputs: lowered.interpret(program, inputs),
            _operators(lowered.region),
            lowered.run_tosa,
        )


def write_ends(region: Region, folder: Path) -> None:
    """Write a region's TOSA file, and what the integers at its ends stand for."""
    (folder / TOSA).write_bytes(region.tosa)
    ends = {"input": _end(region.inputs[0]), "output": _end(region.outputs[0])}
    (folder / ENDS).write_text(json.dumps(ends, indent=2) + "\n")


def _end(end: Boundary) -> dict[str, Any]:
    scale, zero = end.quantization.scale, end.quantization.zero_point
    return {"shape": end.shape, "scale": float(scale), "zero_point": int(zero)}


def _operators(region: Region) -> tuple[str, ...]:
    covering = (operator for operator in region.operators if operator.nodes)
    return tuple(f"{operator.kind} ({', '.join(operator.nodes)})" for operator in covering)
