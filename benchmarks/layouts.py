"""Shapes, pads and attributes of ONNX, in the words of TFLite."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from mbv3c.graphs.count import tensor_shapes


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


def with_same_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose convolutions have the pads of `Padding.SAME`, as TensorFlow's have.

    They have as many zeros as ours, at stride 2 with more of them below and on the right: the
    multiply-adds stay, and results differ a little.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    shapes = tensor_shapes(model)
    for node in changed.graph.node:
        pads = [one for one in node.attribute if one.name == "pads"]
        if node.op_type == "Conv" and pads:
            known = attributes_of(node)
            strides = known.get("strides", [1, 1])
            extent = shapes[node.input[0]][2:]
            pads[0].ints[:] = same_pads(extent, known["kernel_shape"], strides)
    return changed


def attributes_of(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
