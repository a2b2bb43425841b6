"""Give the inputs of a model fixed shapes, as a user writes them."""

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from mbv3c.errors import UsageError

# The shape of a model's only input, or the shapes of its inputs by their names.
InputShape = Sequence[int] | Mapping[str, Sequence[int]]

_LARGEST = 1 << 28  # elements of an input: 1 GiB of fp32
_CHANNELS = (1, 3, 4)  # of images
_OF_IMAGES = 4  # dimensions


def fix_shapes(inputs: Sequence[onnx.ValueInfoProto], input_shape: InputShape) -> None:
    """Give inputs other shapes, in place; of images height and width are enough.

    Raises:
        UsageError: there is no such input, or its dimensions are others.
    """
    for name, shape in _by_name(inputs, input_shape).items():
        value = next(value for value in inputs if value.name == name)
        dims = value.type.tensor_type.shape.dim
        whole = _whole(value, shape)
        if len(dims) != len(whole):
            raise UsageError(
                f"--input-shape has {len(shape)} dimensions, input {name!r} has {len(dims)}"
            )
        if not all(0 < size <= _LARGEST for size in whole) or prod(whole) > _LARGEST:
            raise UsageError(
                f"--input-shape {'x'.join(map(str, whole))} of input {name!r} is no shape that an "
                f"inference can take: its numbers are from 1 on, and their product is at most "
                f"{_LARGEST:,}"
            )
        for dim, size in zip(dims, whole, strict=True):
            dim.dim_value = size


def _whole(value: onnx.ValueInfoProto, shape: Sequence[int]) -> Sequence[int]:
    """Return a whole shape: of height and width alone, batch and channels are the model's."""
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(shape) != 2 or len(sizes) != _OF_IMAGES:
        return shape
    batch, channels, last = max(sizes[0], 1), sizes[1], sizes[3]
    if last in _CHANNELS and channels not in _CHANNELS:
        return batch, *shape, last
    if not channels:
        raise UsageError(
            f"input {value.name!r} has dynamic channels: write the whole shape, such as "
            f"1,3,{shape[0]},{shape[1]}"
        )
    return batch, channels, *shape


def _by_name(
    inputs: Sequence[onnx.ValueInfoProto], input_shape: InputShape
) -> Mapping[str, Sequence[int]]:
    names = [value.name for value in inputs]
    if not isinstance(input_shape, Mapping):
        if len(names) > 1:
            raise UsageError(
                f"the model has {len(names)} inputs ({', '.join(names)}): say which one a shape "
                f"is for, as in --input-shape '{names[0]}:1,3,224,224'"
            )
        return {names[0]: input_shape}
    for name in input_shape:
        if name not in names:
            raise UsageError(
                f"--input-shape: the model has no input {name!r}; it has {', '.join(names)}"
            )
    return input_shape
