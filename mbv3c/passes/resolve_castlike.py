"""Spell CastLike as Cast.

    CastLike(x, like)   ⇒   Cast(x, to=the type of like)

torch's second exporter, when it does not optimise, casts every constant like the tensor beside it;
as Cast, it is folded with the constant.
"""

import onnx_ir as ir

from mbv3c.passes.report import Removal
from mbv3c.passes.rewrite import Match, Rewrite


class ResolveCastLike(Rewrite):
    """Turn CastLike into Cast."""

    name = "resolve_castlike"
    patterns = (lambda op, x, like: op.CastLike(x, like),)
    removes = Removal(("CastLike",), "where the type that it casts to is known")

    def check(self, match: Match) -> str | None:
        like = match.values["like"]
        return f"the type of {like.name!r} is not known" if like.dtype is None else None

    def build(self, op: ir.tape.Tape, match: Match) -> ir.Value:
        like = match.values["like"].dtype
        assert like is not None
        return op.op("Cast", [match.values["x"]], {"to": like.value}, name=match.name)
