"""Labelled images as a search asks for them, opened for a model."""

import onnx

from mbv3c.search.grid import Images
from mbv3c.training.examples import Examples, open_examples


def examples_of(images: Images, model: onnx.ModelProto) -> Examples:
    """Find images, prepare them as a model says, and part them.

    Raises:
        Mbv3cError: as `open_examples` says.
    """
    return open_examples(
        images.source,
        model,
        labels=images.labels,
        validation=images.validation,
        test=images.test,
        limit=images.limit,
    )
