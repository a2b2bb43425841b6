"""Cut a network at the first operators in its middle that an Ethos-U does not compute.

    NPU → operators of the CPU → NPU → …   ⇒   NPU → host: everything behind the first part

A bundle holds one command stream. So later parts of the NPU go to the CPU, too, if what they do is
little beside the first.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from tvm import relax

from mbv3c.graphs.count import layers_with_weights, tensor_shapes
from mbv3c.targets.ethos_u.lowering.composite import bindings, operator
from mbv3c.targets.ethos_u.lowering.region import Region

REGION_CALL = "relax.call_dps_packed"
LEAST_SHARE = 0.75  # of the multiply-adds, for a cut behind the first part


def needs_of_regions(main: relax.Function, on_cpu: Sequence[Any]) -> Iterator[set[Any]]:
    """Yield for each region, in order, the variables of `on_cpu` that it needs."""
    before: dict[Any, set[Any]] = {}
    for variable, value in bindings(main):
        needed = {variable} if variable in on_cpu else set()
        for read in relax.analysis.free_vars(value):
            needed |= before.get(read, set())
        before[variable] = needed
        if operator(value) == REGION_CALL:
            yield needed


def is_worth_a_cut(model: onnx.ModelProto, first: Region) -> bool:
    """Say whether the first part of the NPU does the most of a network's work."""
    inside = {name for each in first.operators for name in each.nodes}
    every = front = 0
    for node, count in layers_with_weights(model, tensor_shapes(model)):
        every += count
        front += count if node.name in inside else 0
    return front > 0 and front >= LEAST_SHARE * every
