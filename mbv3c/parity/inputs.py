"""The inputs on which parity is checked: seeded numbers, as the model takes them."""

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import shape_inference

from mbv3c.feeds import Array, Feed, as_feed
from mbv3c.graphs.constants import constants_of
from mbv3c.graphs.frames import pixel_top
from mbv3c.graphs.load import dtype_of, fixed_shape, model_inputs

# Standard deviations. Normalised images have about 1; the others reach the flat, the curved and
# the linear parts of hard-swish and hard-sigmoid.
SCALES = (1.0, 0.25, 0.5, 1.5, 2.0)
USUAL_INPUTS = 3  # the first: larger ones only show what saturates in a quantized network
_SEED = 20190506


def parity_inputs(
    shape: tuple[int, ...], seed: int | tuple[int, ...] = _SEED
) -> list[NDArray[np.float32]]:
    """Return one seeded input per scale; the first is the golden input of a bundle.

    Half of each input's variance is white noise and half is one offset per image and channel, so
    that both texture and flat areas count. `shape` is the model's input shape, batch first.
    """
    rng = np.random.default_rng(seed)
    flat = (*shape[:2], *(1 for _ in shape[2:]))
    return [
        np.asarray(
            scale * (rng.standard_normal(shape) + rng.standard_normal(flat)) / np.sqrt(2),
            np.float32,
        )
        for scale in SCALES
    ]


def inputs_of(model: onnx.ModelProto, seed: int = _SEED) -> list[Feed]:
    """Return the inputs of a parity check of a model, in the types and ranges that it takes.

    Raises:
        ModelError: the shape of an input is dynamic.
    """
    columns = []
    for index, value in enumerate(model_inputs(model)):
        drawn = parity_inputs(fixed_shape(value), (seed, index) if index else seed)
        columns.append([as_taken(model, value, x) for x in drawn])
    return [as_feed(arrays) for arrays in zip(*columns, strict=True)]


def as_taken(model: onnx.ModelProto, value: onnx.ValueInfoProto, x: NDArray[np.float32]) -> Array:
    """Return numbers of mean 0 and variance 1 as an input of a model takes them.

    A model that normalises pixels itself gets pixels: grey values around the middle of the range,
    clipped to it. Integers are pixels, too, or positions in the table that they are read from.
    """
    dtype = dtype_of(value)
    top = pixel_top(model, value)
    if top is None and np.issubdtype(dtype, np.integer):
        top = _last_position(model, value.name)
    return in_type(x if top is None else as_pixels(x, top), dtype)


def in_type(x: NDArray[np.float32], dtype: DTypeLike) -> Array:
    """Return numbers, or pixels from 0 on, in another type; bytes with a sign are 128 less.

    What integers cannot hold becomes the nearest number that they can.
    """
    wanted = np.dtype(dtype)
    if wanted == np.bool_:
        return x > 0
    if np.issubdtype(wanted, np.floating):
        return x.astype(wanted)
    whole = np.rint(x.astype(np.float64)) - (128 if wanted == np.int8 else 0)
    limits = np.iinfo(wanted)
    clipped: Array = np.clip(whole, limits.min, limits.max).astype(wanted)
    return clipped


def as_pixels(x: NDArray[np.float32], top: float) -> NDArray[np.float32]:
    """Return numbers of mean 0 and variance 1 as pixels between 0 and `top`."""
    return (np.clip(x / 4 + 0.5, 0, 1) * top).astype(np.float32)


_RESHAPING = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_READING = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND")
_BYTE = 255.0


def _last_position(model: onnx.ModelProto, name: str) -> float:
    """Return the largest number that may be read as a position in a table."""
    graph = shape_inference.infer_shapes(model).graph
    extents = {tensor.name: list(tensor.dims) for tensor in constants_of(graph).values()}
    for known in (*graph.value_info, *graph.input):
        extents[known.name] = [dim.dim_value for dim in known.type.tensor_type.shape.dim]
    indices, last = {name}, _BYTE
    for node in graph.node:
        if node.op_type in _RESHAPING and node.input[0] in indices:
            indices.update(node.output)
        if node.op_type in _READING and node.input[1] in indices:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            table = extents.get(node.input[0], [])
            read = table if node.op_type.endswith("ND") else table[axis : axis + 1]
            last = min([last, *(extent - 1 for extent in read if extent > 0)])
    return last
