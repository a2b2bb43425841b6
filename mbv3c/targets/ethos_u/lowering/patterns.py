"""What an Ethos-U can compute, as Relax patterns: float operations between integer tensors.

    dequantize → operation (→ clamp) → quantize

Earlier patterns win. `convert` has the meaning of each pattern in integers, under its name.
"""

from collections.abc import Callable, Iterator

import tvm
from tvm import relax
from tvm.relax.dpl.pattern import DFPattern, TuplePattern, is_const, is_op, wildcard
from tvm.relax.transform import FusionPattern, PatternCheckContext

from mbv3c.targets.ethos_u.lowering.pooling import LARGEST_STRIDE, pool_of
from mbv3c.targets.ethos_u.lowering.resizing import repetitions_of, upsampling_of

BACKEND = "ethos_u"
_MOST_PARTS = 16  # of a Concat


def patterns() -> list[FusionPattern]:
    """Return every pattern, first those that cover the most operators."""
    return [
        *(_pattern("conv2d", pattern, conv=conv) for pattern, conv in _convolutions()),
        *(_pattern("dense", pattern) for pattern in _products()),
        *(_pattern("table", pattern) for pattern in _tables()),
        *_with_a_number(),
        *_two("multiply", "relax.multiply"),
        *_two("add", "relax.add"),
        _pattern("mean", _quantize(is_op("relax.mean")(_dequantize()))),
        _flatten(),
        _resize(),
        *_concatenations(),
        _pool("max_pool", "relax.nn.max_pool2d"),
        _pool("average_pool", "relax.nn.avg_pool2d"),
    ]


def _pattern(kind: str, pattern: DFPattern, **annotations: DFPattern) -> FusionPattern:
    return FusionPattern(f"{BACKEND}.{kind}", pattern, {"root": pattern, **annotations}, _check)


def _check(context: PatternCheckContext) -> bool:
    """Refuse what matches a pattern but has types or shapes that the NPU cannot compute."""
    root = context.annotated_expr["root"]
    if root.ty.dtype != "int8" or not _is_image(root):
        return False
    named = ("conv", "reshape", "resize", "pool", "number")
    conv, reshape, resize, pool, number = (context.annotated_expr.get(name) for name in named)
    if number is not None and not _is_number(number):
        return False
    sides = [each for name, each in context.annotated_expr.items() if name.startswith("part")]
    if any(_is_stored(side) for side in sides):
        return False
    if reshape is not None and not _keeps_order(reshape):
        return False
    if resize is not None and upsampling_of(resize) is None and repetitions_of(resize) is None:
        return False
    if pool is not None and pool_of(pool) is None:
        return False
    return conv is None or _is_possible(conv)


def _is_stored(dequantize: relax.Call) -> bool:
    """Say whether what is dequantized is a constant."""
    return isinstance(dequantize.args[0], tvm.ir.expr.GenericConst)


def _is_number(constant: relax.Expr) -> bool:
    return all(int(size) == 1 for size in constant.ty.shape.values)


def _is_image(value: relax.Expr) -> bool:
    """Say whether a value is of one image: N, C, H, W or N, C."""
    shape = value.ty.shape.values
    return len(shape) in (2, 4) and int(shape[0]) == 1


def _is_possible(conv: relax.Call) -> bool:
    groups = int(conv.attrs.groups)
    if max(int(stride) for stride in conv.attrs.strides) > LARGEST_STRIDE:
        return False
    channels = int(conv.args[0].ty.shape.values[1])
    return groups == 1 or groups == channels == int(conv.ty.shape.values[1])


def _keeps_order(reshape: relax.Call) -> bool:
    """Say whether a reshape moves nothing, in whichever order the channels lie."""
    shapes = [
        [int(size) for size in value.ty.shape.values if int(size) != 1]
        for value in (reshape, reshape.args[0])
    ]
    return shapes[0] == shapes[1] and len(shapes[0]) <= 1


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


def _convolutions() -> Iterator[tuple[DFPattern, DFPattern]]:
    for bias in _BIASES:
        for form in range(3):
            conv = is_op("relax.nn.conv2d")(_dequantize(), _weights())
            summed = conv
            if bias is not None:
                summed = is_op("relax.add")(conv, is_op("relax.reshape")(bias(), wildcard()))
            yield list(_clamped(summed))[form], conv


def _products() -> Iterator[DFPattern]:
    for transposed in (True, False):
        for bias in _BIASES:
            weights = _weights()
            weights = is_op("relax.permute_dims")(weights) if transposed else weights
            product = is_op("relax.matmul")(_dequantize(), weights)
            yield from _clamped(product if bias is None else is_op("relax.add")(product, bias()))


def _tables() -> Iterator[DFPattern]:
    x = _dequantize()
    shifted = is_op("relax.clip")(is_op("relax.add")(x, is_const()), wildcard(), wildcard())
    for divided in ("relax.divide", "relax.multiply"):
        yield _quantize(is_op("relax.multiply")(x, is_op(divided)(shifted, is_const())))
    for scaled in (
        is_op("relax.multiply")(is_const(), _dequantize()),
        is_op("relax.multiply")(_dequantize(), is_const()),
    ):
        moved = is_op("relax.add")(scaled, is_const())
        yield _quantize(is_op("relax.clip")(moved, wildcard(), wildcard()))
    yield _quantize(is_op("relax.sigmoid")(_dequantize()))
    yield from _clamped(_dequantize())


def _flatten() -> FusionPattern:
    reshape = is_op("relax.reshape")(_dequantize(), wildcard())
    return _pattern("flatten", _quantize(reshape), reshape=reshape)


def _resize() -> FusionPattern:
    resize = is_op("relax.image.resize2d")(_dequantize(), wildcard())
    return _pattern("resize", _quantize(resize), resize=resize)


def _concatenations() -> Iterator[FusionPattern]:
    for count in range(1, _MOST_PARTS + 1):
        parts = [_dequantize() for _ in range(count)]
        joined = is_op("relax.concat")(TuplePattern(parts))
        named = {f"part{index}": part for index, part in enumerate(parts)}
        yield _pattern("concat", _quantize(joined), **named)


def _pool(kind: str, operator: str) -> FusionPattern:
    pool = is_op(operator)(_dequantize())
    return _pattern(kind, _quantize(pool), pool=pool)


def _with_a_number() -> Iterator[FusionPattern]:
    """Yield sums and products of a tensor and one stored number: a table has them."""
    for operator in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
        number = _weights()
        for both in ((_dequantize(), number), (number, _dequantize())):
            for pattern in _clamped(is_op(operator)(*both)):
                yield _pattern("table", pattern, number=number)


def _two(kind: str, operator: str) -> Iterator[FusionPattern]:
    left, right = _dequantize(), _dequantize()
    for pattern in _clamped(is_op(operator)(left, right)):
        yield _pattern(kind, pattern, part0=left, part1=right)
