"""Spell CastLike as Cast.

    CastLike(x, like)   ⇒   Cast(x, to=the type of like)

torch's second exporter, when it does not optimise, casts every constant like the tensor beside it;
as Cast, it is folded with the constant.
"""

from typing import Any

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite


def _cast_like(op: Any, x: Any, like: Any) -> Any:
    return op.CastLike(x, like)


class ResolveCastLike(Rewrite):
    """Turn CastLike into Cast."""

    name = "resolve_castlike"
    patterns = (_cast_like,)
    removes = Removal(("CastLike",), "where the type that it casts to is known")

    def check(self, match: Match) -> str | None:
        like = match.values["like"]
        return f"the type of {like.name!r} is not known" if like.dtype is None else None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        like = match.values["like"].dtype
        assert like is not None
        return op.op("Cast", [match.values["x"]], {"to": like.value}, name=match.name)
