"""Shapes, pads and attributes of ONNX, in the words of TFLite."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx


def channels_last(shape: Sequence[int]) -> list[int]:
    """Return N, H, W, C of N, C, H, W; other shapes as they are."""
    if len(shape) != 4:
        return list(shape)
    n, c, h, w = shape
    return [n, h, w, c]


def same_pads(extent: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the pads that `Padding.SAME` means: top, left, bottom, right."""
    before, after = [], []
    for size, wide, stride in zip(extent, kernel, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + wide - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def attributes_of(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
