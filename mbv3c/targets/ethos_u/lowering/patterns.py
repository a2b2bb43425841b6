"""What an Ethos-U can compute, as Relax patterns: float operations between integer tensors.

    dequantize → operation (→ clamp) → quantize

Earlier patterns win. `convert` has the meaning of each pattern in integers, under its name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product

from tvm import relax
from tvm.relax.dpl.pattern import DFPattern, TuplePattern, is_const, is_op, wildcard
from tvm.relax.transform import FusionPattern, PatternCheckContext

from mbv3c.targets.ethos_u.lowering.composite import axes_of_turn, is_stored, operator, shape_of
from mbv3c.targets.ethos_u.lowering.layout import RANKS
from mbv3c.targets.ethos_u.lowering.moves import (
    Move,
    keeps_order,
    move_of,
    numbers_of,
    numbers_shuffled,
)
from mbv3c.targets.ethos_u.lowering.pooling import LARGEST_STRIDE, pool_of
from mbv3c.targets.ethos_u.lowering.reducing import axes_of, is_possible_maximum
from mbv3c.targets.ethos_u.lowering.resizing import repetitions_of, upsampling_of
from mbv3c.targets.ethos_u.lowering.transposed import is_possible_transposed

BACKEND = "ethos_u"
_FLAT = 2  # rank of N, C
_MOST_PARTS = 16  # of a Concat


def patterns() -> list[FusionPattern]:
    """Return every pattern, first those that cover the most operators."""
    return [
        *(
            _pattern("conv2d", pattern, conv=conv)
            for pattern, conv in _convolutions("relax.nn.conv2d", "relax.nn.conv1d")
        ),
        *_products(),
        *(_pattern("table", pattern) for pattern in _tables()),
        *_hard_sigmoids(),
        *_with_a_number(),
        *_by_channel(),
        *_normalizations(),
        *_two("multiply", "relax.multiply"),
        *_two("add", "relax.add"),
        _reduction("mean", "relax.mean"),
        _reduction("highest", "relax.max"),
        *_keeping_order(),
        *_moves(),
        *_prelus(),
        _resize(),
        *_concatenations(),
        *_pools(),
        *(
            _pattern("transposed", pattern, transposed=conv)
            for pattern, conv in _convolutions("relax.nn.conv2d_transpose")
        ),
    ]


def _pattern(kind: str, pattern: DFPattern, **annotations: DFPattern) -> FusionPattern:
    return FusionPattern(f"{BACKEND}.{kind}", pattern, {"root": pattern, **annotations}, _check)


def _check(context: PatternCheckContext) -> bool:
    """Refuse what matches a pattern but has types or shapes that the NPU cannot compute."""
    root = context.annotated_expr["root"]
    if root.ty.dtype != "int8" or not _is_image(root):
        return False
    found = context.annotated_expr
    sides = [each for name, each in found.items() if name.startswith("part")]
    if any(is_stored(side) for side in sides) or not _have_axes_of(root, sides):
        return False
    if "move" in found and not _is_possible_move(found["move"], found["before"]):
        return False
    if "shuffle" in found and _shuffle_of(found) is None:
        return False
    if "channels" in found and not _is_by_channel(found["channels"], root):
        return False
    return all(check(found[name]) for name, check in _CHECKS.items() if name in found)


def _is_number(constant: relax.Expr) -> bool:
    return all(int(size) == 1 for size in constant.ty.shape.values)


def _is_by_channel(constant: relax.Expr, root: relax.Expr) -> bool:
    """Say whether a constant has a number for each channel of the result."""
    shape, rank = shape_of(root), len(root.ty.shape.values)
    stored = (1,) * (rank - len(constant.ty.shape.values)) + shape_of(constant)
    return rank > _FLAT and stored == (1, shape[1], *(1 for _ in shape[2:]))


def _is_image(value: relax.Expr) -> bool:
    """Say whether a value is of one image: N, C, H, W or N, C, L or N, C."""
    shape = value.ty.shape.values
    return len(shape) in RANKS and int(shape[0]) == 1


def _have_axes_of(root: relax.Expr, calls: Iterable[relax.Call]) -> bool:
    """Say whether tensors have as many axes as the result: others would meet other axes."""
    rank = len(root.ty.shape.values)
    return all(len(call.ty.shape.values) == rank for call in calls)


def _is_flat(matmul: relax.Call) -> bool:
    """Say whether a matrix product is one of a vector."""
    return all(len(value.ty.shape.values) == _FLAT for value in (matmul, matmul.args[0]))


def _is_of_a_map(reshape: relax.Call) -> bool:
    before = shape_of(reshape.args[0])
    return len(before) in RANKS and before[0] == 1


def _is_possible(conv: relax.Call) -> bool:
    return max(int(stride) for stride in conv.attrs.strides) <= LARGEST_STRIDE


def _is_possible_move(take: relax.Call, dequantize: relax.Call) -> bool:
    numbers = numbers_of(take.args[1].value.numpy())
    before, after = shape_of(dequantize), shape_of(take)
    if any(len(shape) not in RANKS for shape in (before, after)):
        return False
    return move_of(numbers, before, after) is not None


def _shuffle_of(found: Mapping[str, relax.Call]) -> Move | None:
    before, after = shape_of(found["before"]), shape_of(found["shuffle"])
    if any(len(shape) not in RANKS for shape in (before, after)):
        return None
    axes = found["axes"]
    return move_of(numbers_shuffled(shape_of(axes.args[0]), axes_of_turn(axes)), before, after)


def _is_padded_with_zeros(pad: relax.Call) -> bool:
    return float(pad.attrs.pad_value) == 0


def _is_by_slopes(prelu: relax.Call) -> bool:
    """Say whether a PRelu has one slope, or one for each channel."""
    count, shape = int(prelu.args[1].ty.shape.values[0]), shape_of(prelu)
    return count == 1 or (int(prelu.attrs.axis) == 1 and count == shape[1])


def _keeps_order(call: relax.Call) -> bool:
    """Say whether a Reshape or Transpose moves nothing on the device."""
    before, after = (shape_of(value) for value in (call.args[0], call))
    if len(before) not in RANKS or before[0] != 1:
        return False
    axes = axes_of_turn(call) if operator(call) == "relax.permute_dims" else None
    return keeps_order(before, after, axes)


def _is_possible_mean(reduction: relax.Call) -> bool:
    return bool(axes_of(reduction))


def _is_possible_maximum(reduction: relax.Call) -> bool:
    return bool(axes_of(reduction)) and is_possible_maximum(reduction)


def _is_possible_resize(resize: relax.Call) -> bool:
    return upsampling_of(resize) is not None or repetitions_of(resize) is not None


def _is_possible_pool(pool: relax.Call) -> bool:
    return pool_of(pool) is not None


# What the calls of a pattern, by their names in it, must be for an Ethos-U to compute them.
_CHECKS: dict[str, Callable[[relax.Expr], bool]] = {
    "conv": _is_possible,
    "transposed": is_possible_transposed,
    "product": _is_flat,
    "flattened": _is_of_a_map,
    "mean": _is_possible_mean,
    "highest": _is_possible_maximum,
    "number": _is_number,
    "shift": _is_number,
    "reshape": _keeps_order,
    "turned": _keeps_order,
    "resize": _is_possible_resize,
    "pool": _is_possible_pool,
    "padded": _is_padded_with_zeros,
    "prelu": _is_by_slopes,
}


def _dequantize(data: DFPattern | None = None) -> DFPattern:
    data = wildcard() if data is None else data
    return is_op("relax.dequantize")(data, is_const(), is_const())


def _weights() -> DFPattern:
    return _dequantize(is_const())


def _quantize(data: DFPattern) -> DFPattern:
    return is_op("relax.quantize")(data, is_const(), is_const())


def _clamped(data: DFPattern) -> Iterator[DFPattern]:
    yield _quantize(is_op("relax.nn.relu")(data))
    yield _quantize(is_op("relax.clip")(data, wildcard(), wildcard()))
    yield _quantize(data)


# A bias in integers, one in fp32, as torch writes it, or none.
_BIASES: tuple[Callable[[], DFPattern] | None, ...] = (_weights, is_const, None)


def _convolutions(*operators: str) -> Iterator[tuple[DFPattern, DFPattern]]:
    for name in operators:
        for bias in _BIASES:
            for form in range(3):
                conv = is_op(name)(_dequantize(), _weights())
                summed = conv
                if bias is not None:
                    summed = is_op("relax.add")(conv, is_op("relax.reshape")(bias(), wildcard()))
                yield list(_clamped(summed))[form], conv


def _products() -> Iterator[FusionPattern]:
    """Yield products of a vector, or of a map that is flattened, and stored weights."""
    for is_map, transposed, bias in product((False, True), (True, False), _BIASES):
        for form in range(3):
            weights = is_op("relax.permute_dims")(_weights()) if transposed else _weights()
            taken = is_op("relax.reshape")(_dequantize(), wildcard()) if is_map else _dequantize()
            matmul = is_op("relax.matmul")(taken, weights)
            summed = matmul if bias is None else is_op("relax.add")(matmul, bias())
            named = {"product": matmul, **({"flattened": taken} if is_map else {})}
            yield _pattern("dense", list(_clamped(summed))[form], **named)


_UNARY = (
    *("relax.sigmoid", "relax.tanh", "relax.erf", "relax.nn.gelu", "relax.nn.leakyrelu"),
    *("relax.abs", "relax.negative", "relax.exp", "relax.sqrt"),
)


def _tables() -> Iterator[DFPattern]:
    x = _dequantize()
    shifted = is_op("relax.clip")(is_op("relax.add")(x, is_const()), wildcard(), wildcard())
    for divided in ("relax.divide", "relax.multiply"):
        yield _quantize(is_op("relax.multiply")(x, is_op(divided)(shifted, is_const())))
    for name in _UNARY:
        yield _quantize(is_op(name)(_dequantize()))
    yield from _exponentials()
    yield from _clamped(_dequantize())


def _hard_sigmoids() -> Iterator[FusionPattern]:
    for flipped in (False, True):
        slope, shift = is_const(), is_const()
        both = (_dequantize(), slope) if flipped else (slope, _dequantize())
        moved = is_op("relax.add")(is_op("relax.multiply")(*both), shift)
        pattern = _quantize(is_op("relax.clip")(moved, wildcard(), wildcard()))
        yield _pattern("table", pattern, number=slope, shift=shift)


def _normalizations() -> Iterator[FusionPattern]:
    """Yield what the importer makes of BatchNormalization."""
    factors, shifts = is_const(), is_const()
    moved = is_op("relax.add")(is_op("relax.multiply")(_dequantize(), factors), shifts)
    for pattern in _clamped(moved):
        yield _pattern("normalized", pattern, channels=factors)


def _exponentials() -> Iterator[DFPattern]:
    """Yield Elu, Selu, Softplus, Mish and Softsign, as TVM's importer spells them."""
    x = _dequantize()
    below = is_op("relax.nn.relu")(is_op("relax.subtract")(is_const(), is_op("relax.exp")(x)))
    elu = is_op("relax.add")(is_op("relax.multiply")(is_const(), below), is_op("relax.nn.relu")(x))
    yield _quantize(is_op("relax.multiply")(is_const(), elu))
    yield _quantize(elu)
    exponential = is_op("relax.exp")(is_op("relax.negative")(is_op("relax.abs")(x)))
    logarithm = is_op("relax.log")(is_op("relax.add")(is_const(), exponential))
    yield _quantize(is_op("relax.add")(is_op("relax.maximum")(x, is_const()), logarithm))
    softplus = is_op("relax.log")(is_op("relax.add")(is_const(), is_op("relax.exp")(x)))
    yield _quantize(is_op("relax.multiply")(x, is_op("relax.tanh")(softplus)))
    above = is_op("relax.add")(is_op("relax.abs")(x), is_const())
    yield _quantize(is_op("relax.divide")(x, above))


def _keeping_order() -> Iterator[FusionPattern]:
    reshape = is_op("relax.reshape")(_dequantize(), wildcard())
    yield _pattern("flatten", _quantize(reshape), reshape=reshape)
    turned = is_op("relax.permute_dims")(_dequantize())
    yield _pattern("flatten", _quantize(turned), turned=turned)


def _moves() -> Iterator[FusionPattern]:
    """Yield what the importer makes of operators that only move elements."""
    dequantize = _dequantize()
    row = is_op("relax.nn.pad")(is_op("relax.reshape")(dequantize, wildcard()))
    take = is_op("relax.take")(row, is_const())
    yield _pattern("move", _quantize(take), move=take, padded=row, before=dequantize)
    dequantize = _dequantize()
    parted = is_op("relax.reshape")(dequantize, wildcard())
    turned = is_op("relax.permute_dims")(parted)
    shuffle = is_op("relax.reshape")(turned, wildcard())
    named = {"shuffle": shuffle, "axes": turned, "before": dequantize}
    yield _pattern("shuffle", _quantize(shuffle), **named)


def _prelus() -> Iterator[FusionPattern]:
    for stored in (_weights, is_const):
        slopes = is_op("relax.reshape")(stored(), wildcard())
        call = is_op("relax.nn.prelu")(_dequantize(), slopes)
        yield _pattern("prelu", _quantize(call), prelu=call)


def _resize() -> FusionPattern:
    resize = is_op("relax.image.resize2d")(_dequantize(), wildcard())
    return _pattern("resize", _quantize(resize), resize=resize)


def _reduction(kind: str, operator: str) -> FusionPattern:
    reduction = is_op(operator)(_dequantize())
    return _pattern(kind, _quantize(reduction), **{kind: reduction})


def _concatenations() -> Iterator[FusionPattern]:
    for count in range(1, _MOST_PARTS + 1):
        parts = [_dequantize() for _ in range(count)]
        joined = is_op("relax.concat")(TuplePattern(parts))
        named = {f"part{index}": part for index, part in enumerate(parts)}
        yield _pattern("concat", _quantize(joined), **named)


def _pools() -> Iterator[FusionPattern]:
    for axes in ("1d", "2d"):
        for kind, name in (("max_pool", "max_pool"), ("average_pool", "avg_pool")):
            pool = is_op(f"relax.nn.{name}{axes}")(_dequantize())
            yield _pattern(kind, _quantize(pool), pool=pool)


def _with_a_number() -> Iterator[FusionPattern]:
    """Yield sums and products of a tensor and one stored number: a table has them."""
    for name in ("add", "subtract", "multiply", "divide", "power", "maximum", "minimum"):
        for pattern, number in _with_a_constant(f"relax.{name}"):
            yield _pattern("table", pattern, number=number)


def _by_channel() -> Iterator[FusionPattern]:
    """Yield sums and products of a map and a stored number for each channel."""
    for name in ("add", "subtract", "multiply"):
        for pattern, channels in _with_a_constant(f"relax.{name}"):
            yield _pattern("affine", pattern, channels=channels)


def _with_a_constant(operator: str) -> Iterator[tuple[DFPattern, DFPattern]]:
    constant = _weights()
    for both in ((_dequantize(), constant), (constant, _dequantize())):
        for pattern in _clamped(is_op(operator)(*both)):
            yield pattern, constant


def _two(kind: str, operator: str) -> Iterator[FusionPattern]:
    left, right = _dequantize(), _dequantize()
    for pattern in _clamped(is_op(operator)(left, right)):
        yield _pattern(kind, pattern, part0=left, part1=right)
