"""Where everything lies in the one arena: the NPU's regions, the CPU's arenas, what goes between.

What the NPU reads or gives lies in its region at the place that vela chose. So the CPU writes
there what only the NPU reads, and reads there what the NPU has left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mbv3c.c_library.memory import FlatArena, Tenant, place
from mbv3c.lowering.arena import aligned
from mbv3c.targets.ethos_u.c_source import StreamLayout
from mbv3c.targets.one_chip.parts import Network

ALIGNMENT = 16  # bytes: what Arm's driver asks for, and a vector of Helium


@dataclass(frozen=True)
class Places:
    """The plan of an arena, by offsets in bytes.

    Attributes:
        arena: the plan.
        edges: where each tensor between two parts lies.
        regions: for each part of the NPU where its regions begin, by their numbers.
        own: where the arena of each part of the CPU begins, by the part's number.
    """

    arena: FlatArena
    edges: Mapping[str, int]
    regions: Sequence[Mapping[int, int]]
    own: Mapping[int, int]


def plan_places(
    network: Network, layouts: Sequence[StreamLayout], arenas: Mapping[int, int]
) -> Places:
    """Place everything.

    Args:
        network: the parts.
        layouts: the command stream of each part of the NPU.
        arenas: the bytes of the arena of each part of the CPU, by the part's number.
    """
    parts = network.parts
    numbers = [number for number, part in enumerate(parts) if part.region is not None]
    ends = {*network.inputs, *network.outputs}
    made = {name: at for at, part in enumerate(parts) for name in part.makes}
    read: dict[str, list[int]] = {name: [] for name in network.edges}
    for at, part in enumerate(parts):
        for name in part.reads:
            read[name].append(at)
    homes: dict[str, tuple[str, int]] = {}
    spans: dict[str, tuple[int, int, int]] = {}  # bytes, first and last part
    for stream, (at, layout) in enumerate(zip(numbers, layouts, strict=True)):
        for region, size in layout.scratch.items():
            spans[_region(stream, region)] = (size, at, at)
        for name, (region, offset) in zip(parts[at].makes, layout.outputs, strict=True):
            homes[name] = _region(stream, region), offset
        for name, (region, offset) in zip(parts[at].reads, layout.inputs, strict=True):
            if name not in homes and read[name] == [at] and name not in ends:
                homes[name] = _region(stream, region), offset
    for at, size in arenas.items():
        spans[f"arena {at}"] = (size, at, at)
    for name in network.edges.keys() - ends:
        key, size = homes[name][0] if name in homes else f"edge {name}", network.edges[name].bytes
        size, first, last = spans.get(key, (size, made[name], made[name]))
        spans[key] = size, min(first, made[name]), max(last, *read[name])
    tenants = [
        Tenant(key, aligned(size, ALIGNMENT), first, last)
        for key, (size, first, last) in sorted(spans.items())
    ]
    arena = place(tenants, len(parts))
    edges = {
        name: arena.offsets[homes[name][0]] + homes[name][1]
        if name in homes
        else arena.offsets[f"edge {name}"]
        for name in sorted(network.edges.keys() - ends)
    }
    regions = [
        {region: arena.offsets[_region(stream, region)] for region in layout.scratch}
        for stream, layout in enumerate(layouts)
    ]
    return Places(arena, edges, regions, {at: arena.offsets[f"arena {at}"] for at in arenas})


def _region(stream: int, region: int) -> str:
    return f"region {stream} {region}"
