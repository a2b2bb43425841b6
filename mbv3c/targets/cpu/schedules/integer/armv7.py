"""Tables of 256 entries on 32-bit ARM, whose vectors for them have 8 bytes.

Instructions by their names in Arm's Architecture Reference Manual for ARMv7-A (DDI 0406): VTBL
gives 0 for an index beyond four registers, VTBX leaves what was there.
"""

from tvm import tirx

from mbv3c.lowering.schedules import emit
from mbv3c.lowering.schedules.emit import Buffer, Expr

LANES = 8
_PART = 4 * LANES  # entries that four registers hold
_TABLE = 256


def look_up(table: Buffer, held: Expr, width: int) -> Expr:
    """Look up to 16 int8 up, in eighths of the table."""
    if width > LANES:
        halves = [
            tirx.Shuffle([held], list(range(first, first + LANES)))
            for first in range(0, width, LANES)
        ]
    elif width == 1:
        halves = [tirx.Broadcast(held, LANES)]
    else:
        halves = [tirx.Shuffle([held] * (LANES // width), list(range(LANES)))]
    found = [_look_up(table, emit.held(half, LANES, "int8")) for half in halves]
    if width == LANES:
        return found[0]
    return tirx.Shuffle(found, list(range(width)))


def _look_up(table: Buffer, held: Expr) -> Expr:
    found: Expr = None
    for first in range(0, _TABLE, _PART):
        entries = [emit.load(table, first + LANES * j, lanes=LANES) for j in range(4)]
        if first == 0:
            made = emit.intrinsic("int8", LANES, "arm.neon.vtbl4", *entries, held)
        else:
            signed = first - (_TABLE if first >= _TABLE // 2 else 0)
            index = held - emit.splat(signed, LANES, "int8")
            made = emit.intrinsic("int8", LANES, "arm.neon.vtbx4", found, *entries, index)
        found = emit.held(made, LANES, "int8")
    return found
