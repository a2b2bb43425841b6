"""A bundle's library built again, with names: which kernel is called when, and for which nodes."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from mbv3c.bundle import GOLDEN_INPUT, LIBRARY, MANIFEST, Bundle
from mbv3c.lowering.plan import Step
from mbv3c.prepare import rewritten_for
from mbv3c.targets.library import build_library
from mbv3c.targets.table import target_of
from mbv3c.tuning.choices import recorded


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: name of the function in the library; equal kernels share one.
        step: what it does in the plan.
    """

    kernel: str
    step: Step


@dataclass(frozen=True)
class Rebuilt:
    """A library with its symbol table.

    Attributes:
        folder: a folder with it, the golden files and the bundle's manifest.
        calls: its kernels in the order in which they run.
    """

    folder: Path
    calls: tuple[Call, ...]


@contextmanager
def rebuild(bundle: Bundle) -> Iterator[Rebuilt]:
    """Compile the bundle's model again, for its target, into a folder that goes away after."""
    with tempfile.TemporaryDirectory(prefix="mbv3c-bench-") as name:
        folder = Path(name) / bundle.path.resolve().name
        golden = bundle.path / Path(GOLDEN_INPUT).parent
        shutil.copytree(golden, folder / golden.name)
        shutil.copy(bundle.path / MANIFEST, folder)
        target = target_of(bundle)
        precision = bundle.manifest["precision"]
        optimized, _ = rewritten_for(onnx.load(bundle.compiled_model), precision)
        lowered = build_library(
            optimized,
            target,
            folder / LIBRARY,
            precision=precision,
            keep_float=bundle.manifest.get("keep_float", ()),
            choices=recorded(bundle.manifest.get("tuned_kernels", ())),
            symbols=True,
        ).lowered
        calls = zip(lowered.kernels, lowered.plan.steps, strict=True)
        yield Rebuilt(folder, tuple(Call(*pair) for pair in calls))
