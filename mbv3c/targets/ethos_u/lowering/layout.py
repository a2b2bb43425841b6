"""How tensors of a model lie on the device: N, H, W, C.

N, C, H, W   ⇒   N, H, W, C        N, C, L   ⇒   N, 1, L, C        N, C   ⇒   N, 1, 1, C
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

RANKS = (2, 3, 4)  # of tensors that lie on the device
AXES = (0, 3, 1, 2)  # where the axes of N, C, H, W and N, C are on the device
_AXES_OF_ROWS = (0, 3, 2)  # where those of N, C, L are

Element = TypeVar("Element", bound=np.generic)


def on_device(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the shape on the device of a shape in the model."""
    batch, channels, *sizes = shape
    height, width = (1, 1, *sizes)[-2:]
    return batch, height, width, channels


def axis_on_device(axis: int, rank: int) -> int:
    """Return where an axis of a tensor of some rank is on the device."""
    return (_AXES_OF_ROWS if rank == len(_AXES_OF_ROWS) else AXES)[axis]


def to_device(values: NDArray[Element]) -> NDArray[Element]:
    """Lay values of the model out as on the device."""
    batch, height, width, channels = on_device(values.shape)
    image = values.reshape(batch, channels, height, width)
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def to_model(values: NDArray[Element], shape: Sequence[int]) -> NDArray[Element]:
    """Lay values of the device, N, H, W, C, out as a tensor of a shape in the model."""
    return np.ascontiguousarray(values.transpose(AXES).reshape(shape))
