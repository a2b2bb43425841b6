"""Whether an NPU computes a network in one piece, and what to say if it does not."""

from collections.abc import Iterator, Sequence
from typing import Any

from mbv3c.errors import ModelError
from mbv3c.targets.ethos_u.lowering.region import Operator, Partition, Region
from mbv3c.targets.ethos_u.manifest import PlacementRecord

_SHOWN = 3  # operators in one message
_SHOWN_CHARACTERS = 100  # of names in one message, if they are more than one
_ELSE = "use another target, such as arm_cpu with --precision int8"
_BESIDE = "let a Cortex-M compute it (--artifact c)"


class PlacementError(ModelError):
    """A network is not for an NPU in one piece.

    Attributes:
        left: the operators that are not on the NPU.
    """

    def __init__(self, message: str, left: Sequence[Operator]) -> None:
        super().__init__(message)
        self.left = tuple(left)

    @property
    def details(self) -> dict[str, Any]:
        """The operators with their reasons and costs, as the manifest's `placement` has them."""
        return {"on_cpu": [placed(operator).to_json() for operator in self.left]}


def npu_part(parts: Partition, *, explain: bool = False) -> Region:
    """Return the only region of a network of which the NPU computes everything up to a cut.

    Args:
        parts: the network.
        explain: whether an error lists every operator with its costs.

    Raises:
        PlacementError: the NPU computes nothing, or waits for what it cannot compute; that is
            named.
    """
    if len(parts.regions) == 1 and not parts.awaited:
        return parts.regions[0]
    raise refusal(parts.awaited or parts.on_cpu, waits=bool(parts.regions), explain=explain)


def refusal(left: Sequence[Operator], *, waits: bool, explain: bool = False) -> PlacementError:
    """Say why an NPU does not compute a network in one piece.

    Args:
        left: what the CPU would compute.
        waits: whether the NPU would wait for it; else there is nothing that the NPU computes.
        explain: whether every operator is listed with its costs.
    """
    listed = _listed([f"{node.kind} ({node.name})" for node in left]) or "everything"
    why = left[0].stay if left else None
    if waits:
        start = "in front of the NPU's part or inside it there would be"
        other = f"{_BESIDE}, or {_ELSE}"
    else:
        start, other = "the NPU can compute nothing of this network", _ELSE
    reason, change = (f": {why.why}", f"{why.change}, or {other}") if why else ("", other)
    table = "".join(
        f"\n{line}" for line in costs([placed(node) for node in left] if explain else [])
    )
    return PlacementError(f"{start}: {listed}{reason}\n{change}{table}", left)


def _listed(names: Sequence[str]) -> str:
    """Join some names, and say how many more there are."""
    shown = list(names[:_SHOWN])
    while len(shown) > 1 and len(", ".join(shown)) > _SHOWN_CHARACTERS:
        shown.pop()
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{', '.join(shown)}{more}"


def placed(operator: Operator) -> PlacementRecord:
    """Return what the manifest says of an operator."""
    where, stay = "npu" if operator.on_npu else "cpu", operator.stay
    record = PlacementRecord(operator.name, tuple(operator.nodes), operator.kind, where)
    if stay is None:
        return record
    return PlacementRecord(
        *(record.name, record.nodes, record.operator, record.on),
        stay.why,
        stay.change,
        stay.bytes_from_npu,
        stay.bytes_to_npu,
        stay.parts_before,
        stay.parts_behind,
    )


def costs(left: Sequence[PlacementRecord]) -> Iterator[str]:
    """List what stays on the CPU: bytes from and to the NPU, its parts on both sides, reasons."""
    if not left:
        return
    wide = max(len(f"{each.operator} ({each.name})") for each in left) + 2
    heads = f"{'from NPU':>12}{'to NPU':>12}{'parts':>8}"
    yield f"{'on the CPU':<{wide}}{heads}  why; what to change"
    for each in left:
        parts = f"{each.parts_before}+{each.parts_behind}"
        yield (
            f"{f'{each.operator} ({each.name})':<{wide}}{each.bytes_from_npu or 0:>10,} B"
            f"{each.bytes_to_npu or 0:>10,} B{parts:>8}  {each.why}; {each.change}"
        )
