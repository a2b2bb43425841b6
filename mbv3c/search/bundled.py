"""How often a bundle is right on labelled images, beside the models that it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mbv3c.accuracy.scores import class_scores
from mbv3c.accuracy.tally import BUNDLE, GIVEN, QUANTIZED
from mbv3c.bundle import Bundle, read_bundled
from mbv3c.execution.runners import open_stream
from mbv3c.progress import Progress
from mbv3c.targets import backend_for
from mbv3c.training.evaluate import Accuracy, evaluate
from mbv3c.training.examples import Examples, PartName

_TOLD = 500  # images between two lines of progress


@dataclass(frozen=True)
class Bundled:
    """What a bundle is worth on labelled images.

    Attributes:
        accuracy: accuracy by side, on the same images: `given` of onnxruntime on the model as
            given, `quantized` on the quantized model, if there is one, and `bundle`.
        ran_on: what ran the bundle.
        exact_program: whether it was the bundle's own program.
    """

    accuracy: Mapping[str, Accuracy]
    ran_on: str
    exact_program: bool


def bundle_accuracy(
    bundle: Bundle, examples: Examples, part: PartName, limit: int, progress: Progress
) -> Bundled:
    """Run images through a bundle, and through onnxruntime on its models.

    Args:
        bundle: a classifier for one image at a time.
        examples: images for its input.
        part: name of the part.
        limit: number of images to take, evenly from all of the part.
        progress: told of each step.

    Raises:
        UsageError: the bundle is no classifier, or nothing runs it.
        ToolError: what runs it fails.
    """
    model = read_bundled(bundle.model)
    scores, _ = class_scores(bundle.manifest, bundle.path)
    accuracy = {GIVEN: evaluate(model, examples, part, limit=limit)}
    if bundle.compiled_model != bundle.model:
        quantized = read_bundled(bundle.compiled_model)
        accuracy[QUANTIZED] = evaluate(quantized, examples, part, limit=limit)
    labels = examples.labels(part)
    places = examples.evenly(part, limit)
    best: list[int] = []
    with (
        backend_for(bundle).open(bundle, progress) as ran,
        open_stream(ran.runner, ran.folder, len(bundle.output_names)) as stream,
    ):
        progress(f"running {len(places):,} images on {ran.ran_on}")
        for start in range(0, len(places), stream.at_once):
            chosen = places[start : start + stream.at_once]
            stream.send([image[None] for image in examples.inputs(part, chosen)])
            rows = [row for outputs in stream.receive() for row in scores.of(outputs)]
            before = len(best)
            best += [int(row.argmax()) if np.isfinite(row).all() else -1 for row in rows]
            if before // _TOLD < len(best) // _TOLD:
                progress(f"{len(best):,} of {len(places):,} images")
    accuracy[BUNDLE] = Accuracy(np.array(best, np.int64) == labels[places])
    return Bundled(accuracy, ran.ran_on, ran.exact_program)
