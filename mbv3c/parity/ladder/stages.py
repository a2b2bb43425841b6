"""The stages of compiling, each as something that takes a model or any part of one and runs it.

The ladder gives a stage the whole model, the bisection a part of it: the same code either way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.relax import transform

from mbv3c.bundle import LIBRARY
from mbv3c.errors import UsageError
from mbv3c.execution.host import arrays
from mbv3c.execution.runners import Runner
from mbv3c.lowering.fold_reshape import FoldReshape
from mbv3c.lowering.lower import Lowered
from mbv3c.lowering.onnx_import import import_onnx
from mbv3c.lowering.qdq import with_stored_values
from mbv3c.parity.reference import run, session
from mbv3c.passes import Pass

Array = NDArray[Any]
Inputs = Sequence[NDArray[np.float32]]

BEFORE, AFTER, INPUT = "before.onnx", "after.onnx", "input.npy"


@dataclass(frozen=True)
class StageResult:
    """What a stage has made of a model.

    Attributes:
        run: runs inputs; gives all outputs of each.
        kernels: the kernels of a library that compute something, each with the ONNX nodes that
            it covers; none of other stages.
        wanted: gives what it should compute; None where that is what onnxruntime computes.
    """

    run: Callable[[Inputs], list[list[Array]]]
    kernels: tuple[str, ...] = ()
    wanted: Callable[[Inputs], list[list[Array]]] | None = None


class Stage(Protocol):
    """A stage of compiling."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    @property
    def ran_on(self) -> str:
        """What executes what it makes."""
        ...

    @property
    def precision(self) -> str:
        """The row of `TOLERANCES` that holds for what it changes."""
        ...

    @property
    def script(self) -> str:
        """The row of `reproduce.SCRIPTS` that shows a fault of it; empty if there is none."""
        ...

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        """Put a model, or a part of one, through the stage.

        `folder` takes the files that the result needs, which are those of a reproduction, too.

        Raises:
            Mbv3cError: the stage cannot take this model.
        """
        ...


@dataclass(frozen=True)
class RewriteStage:
    """One pass over the graph, in onnxruntime without graph optimisations."""

    one_pass: Pass
    name: str
    ran_on: str = "onnxruntime"
    precision: str = "fp32"
    script: str = "rewrite"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        rewritten, _ = self.one_pass(model)
        onnx.save(rewritten, folder / AFTER)
        opened = session(rewritten)
        return StageResult(lambda inputs: [run(opened, x) for x in inputs])


@dataclass(frozen=True)
class QuantizeStage:
    """Quantization, which is judged by how near it comes and is not made part by part."""

    name: str = "quantized"
    ran_on: str = "onnxruntime"
    precision: str = "int8"
    script: str = ""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        raise UsageError("a part of a model is not quantized by itself; `mbv3c quantize` measures")


# TVM's own way from its importer to TensorIR, fused and not scheduled. Constants stay as they are:
# folding them takes longer than all the rest.
_UNSCHEDULED: tuple[tvm.transform.Pass, ...] = (
    transform.DecomposeOpsForInference(),
    FoldReshape(),
    transform.CanonicalizeBindings(),
    transform.LegalizeOps(),
    transform.AnnotateTIROpPattern(),
    transform.FuseOps(),
    transform.FuseTIR(),
    transform.DeadCodeElimination(),
)


@dataclass(frozen=True)
class ImportStage:
    """The import to Relax, computed by TVM's own operators without any schedule."""

    name: str = "import to Relax"
    ran_on: str = "this machine, TVM's operators as they are"
    precision: str = "fp32"
    script: str = "import"

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        # LLVM does not optimise it either: it compiles sooner, and few inputs run.
        target = tvm.target.Target({"kind": "llvm", "num-cores": 1, "opt-level": 0})
        with target:
            module = tvm.transform.Sequential(_UNSCHEDULED)(import_onnx(with_stored_values(model)))
        return in_process(tvm.compile(module, target=target))


@dataclass(frozen=True)
class LibraryStage:
    """Our kernels in a library.

    Attributes:
        build: writes the library of a model; returns its kernels, as `StageResult` has them.
        runner: runs that library.
        ran_on: what that is; of a bundle what executed its own library.
        arch: the machine on which alone the library runs, as `uname -m` prints it; empty if it is
            this one.
    """

    name: str
    precision: str
    build: Callable[[onnx.ModelProto, Path], tuple[str, ...]]
    runner: Runner
    ran_on: str
    script: str = "library"
    arch: str = ""

    def make(self, model: onnx.ModelProto, folder: Path) -> StageResult:
        kernels = self.build(model, folder / LIBRARY)
        return StageResult(lambda inputs: self.runner.run(folder, list(inputs)), kernels)


def in_process(executable: Any) -> StageResult:
    """Return what runs a compiled program in this process."""
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return StageResult(lambda inputs: [arrays(main(tvm.runtime.tensor(x))) for x in inputs])


def covering(lowered: Lowered) -> tuple[str, ...]:
    """Name the kernels of a network that cover nodes of the graph, with these nodes."""
    return tuple(
        f"{kernel} ({', '.join(step.nodes)})"
        for kernel, step in zip(lowered.kernels, lowered.plan.steps, strict=True)
        if step.nodes
    )
