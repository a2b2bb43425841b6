"""The grain of a target: channel counts that are multiples of it cost least for each channel."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mbv3c.costs.types import NetworkCost
from mbv3c.execution.device.place import Place
from mbv3c.precision import Precision
from mbv3c.progress import Progress
from mbv3c.target import Target
from mbv3c.targets.costs import costs_of, time_resource

GRAINS = (4, 8, 16, 32)
_LEAST, _MOST = 64, 128
_NARROW, _SIDE = 40, 7
_NEAR = 1.01  # times the least cost of a channel is as good


def grain_of(
    target: Target,
    precision: Precision,
    database: Path,
    progress: Progress,
    place: Place | None = None,
) -> tuple[int, dict[int, float]]:
    """Return the grain of a target, and what a channel costs at multiples of each of `GRAINS`.

    Two pointwise convolutions, 40 → N → 40 on 7x7 places, are asked for with every multiple of
    four channels from 64 to 128. The grain is the smallest whose multiples cost, on the mean and
    for each channel, at most 1 % more than those of any other.

    Raises:
        Mbv3cError: as `costs_of` says.
    """
    counts = range(_LEAST, _MOST + 1, GRAINS[0])
    chain = _chain(counts)
    (cost,) = costs_of([chain], target, precision, database, progress, place=place)
    per_channel = _by_count(cost, time_resource(target, precision, place), counts)
    means = {
        grain: float(np.mean([per_channel[count] for count in counts if count % grain == 0]))
        for grain in GRAINS
    }
    least = min(means.values())
    return next(grain for grain in GRAINS if means[grain] <= _NEAR * least), means


def _by_count(cost: NetworkCost, time: str, counts: range) -> dict[int, float]:
    sums = dict.fromkeys(counts, 0.0)
    for layer in cost.layers:
        names = {name.partition(".")[0] for name in layer.nodes}
        for count in counts:
            if f"n{count}" in names:
                sums[count] += layer.resources[time]
    return {count: total / count for count, total in sums.items()}


def _chain(counts: range) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, stored, x = [], [], "x"
    for count in counts:
        for way, inputs, outputs in (("up", _NARROW, count), ("down", count, _NARROW)):
            name = f"n{count}.{way}"
            shape = (outputs, inputs, 1, 1)
            weights = random.standard_normal(shape) * np.sqrt(2 / inputs)
            stored.append(numpy_helper.from_array(weights.astype(np.float32), f"{name}.weight"))
            zeros = np.zeros(outputs, np.float32)
            stored.append(numpy_helper.from_array(zeros, f"{name}.bias"))
            operands = [x, f"{name}.weight", f"{name}.bias"]
            nodes.append(
                helper.make_node("Conv", operands, [f"{name}.y"], name, kernel_shape=[1, 1])
            )
            nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.z"], f"{name}.relu"))
            x = f"{name}.z"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, _NARROW, _SIDE, _SIDE))
        for name in ("x", x)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
