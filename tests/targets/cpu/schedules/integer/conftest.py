"""Instructions that this machine may lack, in those that all have."""

from collections.abc import Sequence
from typing import Any

import pytest
from tvm import tirx

from mbv3c.lowering.schedules import emit


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write products of AVX-512 and of VNNI as sums of plain products."""
    intrinsic = emit.intrinsic

    def written(dtype: str, lanes: int, name: str, *arguments: Any) -> Any:
        if name.startswith("x86.avx512.pmaddw.d"):
            return _sums(None, arguments, lanes, 2, None)
        if name.startswith("x86.avx512.vpdpbusd"):
            return _sums(arguments[0], arguments[1:], lanes, 4, 255)
        return intrinsic(dtype, lanes, name, *arguments)

    monkeypatch.setattr(emit, "intrinsic", written)


def _sums(total: Any, operands: Sequence[Any], lanes: int, count: int, mask: int | None) -> Any:
    """Add `count` products to each of `lanes` sums; a mask is that of the first factors."""
    held = [emit.held(one, count * lanes, str(one.ty.dtype).split("x")[0]) for one in operands]
    for at in range(count):
        order = list(range(at, count * lanes, count))
        a, b = (tirx.Cast(f"int32x{lanes}", tirx.Shuffle([one], order)) for one in held)
        product = a * b if mask is None else (a & emit.splat(mask, lanes, "int32")) * b
        total = product if total is None else total + product
    return total
