"""Which networks are measured, and how they become bundles."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import onnx

from mbv3c import pipeline
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.count import count
from mbv3c.graphs.spec import ModelSpec
from mbv3c.job import Job
from mbv3c.passes import run_pipeline
from mbv3c.precision import FP32, Precision
from mbv3c.targets import find_target, read_options


@dataclass(frozen=True)
class Network:
    """A MobileNetV3 that computes some images at once."""

    variant: str
    width: float
    resolution: int
    batch: int = 1

    @property
    def name(self) -> str:
        images = f", {self.batch} images" if self.batch > 1 else ""
        return f"{self.variant.capitalize()} {self.width:g}, {self.resolution} px{images}"

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            self.variant, width=self.width, resolution=self.resolution, batch=self.batch
        )


NETWORKS = tuple(Network(*one) for one in product(("large", "small"), (1.0, 0.75), (224, 160)))
QUICK = (Network("small", 1.0, 224),)


@dataclass(frozen=True)
class Graph:
    """A network as `mbv3c optimize` writes it, the best case of every runtime.

    Attributes:
        model: batch normalization is folded and hard-swish is one node.
        madds: multiply-adds of one inference.
    """

    model: onnx.ModelProto
    madds: int


def build(network: Network) -> Graph:
    built = build_model(network.spec)
    return Graph(run_pipeline(built)[0], count(built).madds)


def compile_for(
    graph: Graph,
    target: str,
    cores: int,
    folder: Path,
    progress: Callable[[str], None],
    *,
    precision: Precision = FP32,
    verify: bool = True,
) -> Path:
    """Compile a bundle in a folder, and verify it unless told otherwise."""
    bundle = folder / f"{target.replace(':', '-')}-{cores}"
    chosen, options = read_options(find_target(target), {"cores": cores})
    job = Job(chosen, precision, options=options)
    pipeline.compile_model(graph.model, job, bundle, progress=progress, verify=verify)
    return bundle
