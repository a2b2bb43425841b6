"""Detection: SSDLite on MobileNetV3 or a relative with decoded boxes, as in torchvision.

Source: torchvision's `ssdlite320_mobilenet_v3_large` (`models/detection/ssdlite.py`, `ssd.py`);
Howard et al., arXiv:1905.02244, section 6.3; SSDLite itself: Sandler et al., arXiv:1801.04381,
section 6.2.
"""

import json
from math import log

from mbv3c.graphs.anchors import PER_CELL, anchors
from mbv3c.graphs.architecture import Architecture
from mbv3c.graphs.outputs import DETECTOR
from mbv3c.graphs.spec import ModelSpec
from mbv3c.graphs.writer import Features, GraphOutput, GraphWriter

BOXES, SCORES = "boxes", "scores"

_EXTRA_CHANNELS = (512, 256, 256, 128)  # of the blocks behind the network, at width 1
_MIN_CHANNELS = 16

# Of torchvision's BoxCoder: the scales in which offsets and sizes are predicted, and the limit
# that keeps the exponential finite.
_OFFSET_WEIGHT, _SIZE_WEIGHT = 10.0, 5.0
_MAX_LOG_SIZE = log(1000 / 16)


def ssdlite(
    graph: GraphWriter, features: Features, arch: Architecture, spec: ModelSpec
) -> tuple[GraphOutput, ...]:
    """Write the extra feature maps, the two heads on all six maps, and the boxes' decoding.

    The maps are the activated expansion of the first block at stride 32 (itself at stride 16),
    the last convolution, and four more, each half as large as the one before. Outputs, for the
    anchors of `mbv3c.graphs.anchors`:

    - `boxes` `(batch, anchors, 4)`: left, top, right and bottom in pixels of the input, before
      they are clipped to the image;
    - `scores` `(batch, anchors, classes)`: probabilities, the background first.
    """
    first = arch.first_at(32)
    assert first is not None, "checked with the spec"
    maps = [(features.expansions[first], arch.blocks[first].expand)]
    maps.append((features.last, features.channels))
    for index, channels in enumerate(_EXTRA_CHANNELS):
        wide = max(_MIN_CHANNELS, int(channels * spec.width))
        maps.append((_extra_block(graph, f"extra.{index}", *maps[-1], wide), wide))
    logits = _predict(graph, "head.classes", maps, spec.classes)
    deltas = _predict(graph, "head.boxes", maps, 4)
    graph.node("Softmax", "scores.softmax", [logits], SCORES, axis=2)
    sides = [graph.side(name) for name, _ in maps]
    _decode(graph, deltas, sides, spec.resolution)
    graph.note(DETECTOR, json.dumps({"boxes": BOXES, "scores": SCORES}))
    count = PER_CELL * sum(side * side for side in sides)
    return (
        GraphOutput(BOXES, (spec.batch, count, 4), class_axis=None),
        GraphOutput(SCORES, (spec.batch, count, spec.classes), class_axis=2),
    )


def _extra_block(graph: GraphWriter, name: str, x: str, channels: int, out: int) -> str:
    middle = out // 2
    x = graph.conv_bn(f"{name}.reduce", x, channels, middle)
    x = graph.relu6(f"{name}.reduce.act", x)
    x = graph.depthwise_bn(f"{name}.depthwise", x, middle, kernel=3, stride=2)
    x = graph.relu6(f"{name}.depthwise.act", x)
    x = graph.conv_bn(f"{name}.expand", x, middle, out)
    return graph.relu6(f"{name}.expand.act", x)


def _predict(graph: GraphWriter, name: str, maps: list[tuple[str, int]], values: int) -> str:
    """Write one head: `values` numbers for every anchor, `(batch, anchors, values)`."""
    shape = graph.constant(f"{name}.shape", [0, -1, values], "int64")
    rows = []
    for index, (x, channels) in enumerate(maps):
        prefix = f"{name}.{index}"
        x = graph.depthwise_bn(f"{prefix}.depthwise", x, channels, kernel=3)
        x = graph.relu6(f"{prefix}.depthwise.act", x)
        x = graph.conv_bias(f"{prefix}.predict", x, channels, PER_CELL * values)
        x = graph.node("Transpose", f"{prefix}.transpose", [x], perm=[0, 2, 3, 1])
        rows.append(graph.node("Reshape", f"{prefix}.reshape", [x, shape]))
    return graph.node("Concat", f"{name}.concat", rows, axis=1)


def _decode(graph: GraphWriter, deltas: str, sides: list[int], resolution: int) -> None:
    """Write the nodes that turn offsets and logarithmic sizes beside the anchors into boxes."""
    centres, sizes = anchors(sides, resolution)
    anchor_centre = graph.constant("anchors.centre", centres)
    anchor_size = graph.constant("anchors.size", sizes)

    x = _slice(graph, "boxes.offset", deltas, 0, 2)
    x = graph.node("Div", "boxes.offset.div", [x, graph.constant("boxes.ten", _OFFSET_WEIGHT)])
    x = graph.node("Mul", "boxes.offset.mul", [x, anchor_size])
    centre = graph.node("Add", "boxes.centre", [x, anchor_centre])

    x = _slice(graph, "boxes.size", deltas, 2, 4)
    x = graph.node("Div", "boxes.size.div", [x, graph.constant("boxes.five", _SIZE_WEIGHT)])
    limit = graph.constant("boxes.limit", _MAX_LOG_SIZE)
    x = graph.node("Clip", "boxes.size.clip", [x, "", limit])
    x = graph.node("Exp", "boxes.size.exp", [x])
    size = graph.node("Mul", "boxes.size.mul", [x, anchor_size])

    half = graph.node("Mul", "boxes.half", [size, graph.constant("boxes.one_half", 0.5)])
    low = graph.node("Sub", "boxes.low", [centre, half])
    high = graph.node("Add", "boxes.high", [centre, half])
    graph.node("Concat", "boxes.concat", [low, high], BOXES, axis=2)


def _slice(graph: GraphWriter, name: str, x: str, start: int, end: int) -> str:
    """Write the numbers from `start` to `end` of each anchor."""
    bounds = {"start": [start], "end": [end]}
    inputs = [graph.constant(f"{name}.{key}", value, "int64") for key, value in bounds.items()]
    axis = graph.constant("boxes.axis", [2], "int64")
    return graph.node("Slice", f"{name}.slice", [x, *inputs, axis])
