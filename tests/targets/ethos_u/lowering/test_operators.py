"""Operators that MobileNetV3 does not have, lowered to TOSA beside onnxruntime, or refused."""

import pytest

from mbv3c.errors import ModelError
from mbv3c.quantization.calibration import random_inputs
from mbv3c.quantization.quantize import quantize
from mbv3c.targets.ethos_u.lowering.partition import partition
from mbv3c.targets.ethos_u.placement import npu_part
from tests.targets.ethos_u.lowering.small_graphs import ONE_OPERATION_LSB, difference, graph_of

# The operator reads what one more operator gives, which may be a step off.
BEHIND_ANOTHER_LSB = ONE_OPERATION_LSB + 1


def pool(kind: str, out: str, attributes: str) -> tuple[str, str]:
    return f"h = HardSwish(x) y = {kind} <{attributes}> (h)", f"[1,8,{out}]"


def row(body: str, out: str) -> tuple[str, str]:
    """Return a graph that reads a map as a row of 99 pixels."""
    return f"s = Constant <value_ints=[1,8,99]> () h = HardSwish(x) r = Reshape(h, s) {body}", out


def resize(out: str, scales: str, attributes: str) -> tuple[str, str]:
    stored = f"s = Constant <value_floats=[1.0,1.0,{scales}]> ()"
    attributes = f'mode="nearest", {attributes}'
    return f"{stored} h = HardSwish(x) y = Resize <{attributes}> (h, , s)", f"[1,8,{out}]"


FLOOR = 'coordinate_transformation_mode="asymmetric", nearest_mode="floor"'


def sliced(out: str, starts: str, ends: str, axes: str, steps: str) -> tuple[str, str]:
    body = f"""
        start = Constant <value_ints=[{starts}]> () end = Constant <value_ints=[{ends}]> ()
        axis = Constant <value_ints=[{axes}]> () step = Constant <value_ints=[{steps}]> ()
        h = HardSwish(x) y = Slice(h, start, end, axis, step)
    """
    return body, out


def with_integers(node: str, integers: str, out: str) -> tuple[str, str]:
    """Return a graph whose node reads a map h and integers s."""
    return f"s = Constant <value_ints=[{integers}]> () h = HardSwish(x) y = {node}", out


FIRES = {
    "in two groups": (
        "h = HardSwish(x) t = Conv <group=2, pads=[1,1,1,1]> (h, quarter, b) y = Relu(t)",
        "[1,16,9,11]",
    ),
    "in five groups, in three parts": (
        "h = Conv(x, forty) y = Conv <group=5, strides=[2,2]> (h, five)",
        "[1,20,4,5]",
    ),
    "each channel twice": (
        "h = HardSwish(x) y = Conv <group=8, pads=[1,1,1,1]> (h, twice, b)",
        "[1,16,9,11]",
    ),
    "a row in groups": row("y = Conv <group=2> (r, narrow)", "[1,16,97]"),
    "some channels and rows": sliced("[1,3,4,11]", "2,3", "5,7", "1,2", "1,1"),
    "every second row and third column": sliced("[1,8,5,4]", "0,1", "9,11", "2,3", "2,3"),
    "every third channel": sliced("[1,3,9,11]", "0", "8", "1", "3"),
    "channels the other way round": sliced("[1,8,9,11]", "-1", "-9", "1", "-1"),
    "rows the other way round": sliced("[1,8,9,11]", "-1", "-10", "2", "-1"),
    "a block's corner": sliced("[1,8,3,11]", "1", "9", "2", "3"),
    "channels by number": with_integers("Gather <axis=1> (h, s)", "5,0,0,7,2,1", "[1,6,9,11]"),
    "split": (
        """s = Constant <value_ints=[2,5,1]> () h = HardSwish(x)
        k, l, m = Split <axis=1> (h, s) y = Concat <axis=1> (m, k, l)""",
        "[1,8,9,11]",
    ),
    "split of rows": (
        """s = Constant <value_ints=[4,5]> () h = HardSwish(x)
        k, l = Split <axis=2> (h, s) y = Concat <axis=2> (l, k)""",
        "[1,8,9,11]",
    ),
    "zeros around": with_integers("Pad(h, s)", "0,0,2,1,0,0,0,3", "[1,8,11,15]"),
    "zeros behind the channels": with_integers("Pad(h, s)", "0,2,0,0,0,3,0,0", "[1,13,9,11]"),
    "pixels cut off by a Pad": with_integers("Pad(h, s)", "0,0,-1,2,0,0,-2,-3", "[1,8,6,10]"),
    "reflected": with_integers('Pad <mode="reflect"> (h, s)', "0,0,2,1,0,0,0,3", "[1,8,11,15]"),
    "edges repeated": with_integers('Pad <mode="edge"> (h, s)', "0,0,2,1,0,0,0,3", "[1,8,11,15]"),
    "a row padded": row("k = Constant <value_ints=[0,0,2,0,0,1]> () y = Pad(r, k)", "[1,8,102]"),
    "tiles": with_integers("Tile(h, s)", "1,2,3,2", "[1,16,27,22]"),
    "expanded": (
        """s = Constant <value_ints=[1,8,9,11]> () m = GlobalAveragePool(x)
        h = HardSwish(m) y = Expand(h, s)""",
        "[1,8,9,11]",
    ),
    "channels to pixels": ("h = HardSwish(x) y = DepthToSpace <blocksize=2> (h)", "[1,2,18,22]"),
    "channels to pixels, as torch shuffles": (
        'h = HardSwish(x) y = DepthToSpace <blocksize=2, mode="CRD"> (h)',
        "[1,2,18,22]",
    ),
    "pixels to channels": (
        """s = Constant <value_ints=[0,0,0,0,0,0,0,1]> () h = HardSwish(x) k = Pad(h, s)
        y = SpaceToDepth <blocksize=3> (k)""",
        "[1,72,3,4]",
    ),
    "maximum of the input": (
        "h = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) y = Conv(h, p)",
        "[1,12,4,5]",
    ),
    "the input turned into pixels": ("y = DepthToSpace <blocksize=2> (x)", "[1,2,18,22]"),
    "channels shuffled": (
        """a = Constant <value_ints=[1,2,4,9,11]> () s = Constant <value_ints=[1,8,9,11]> ()
        h = HardSwish(x) k = Reshape(h, a) l = Transpose <perm=[0,2,1,3,4]> (k)
        y = Reshape(l, s)""",
        "[1,8,9,11]",
    ),
    "a block of pixels to channels, as torch writes it": (
        """a = Constant <value_ints=[1,8,3,3,11,1]> () s = Constant <value_ints=[1,24,3,11]> ()
        h = HardSwish(x) k = Reshape(h, a) l = Transpose <perm=[0,1,3,5,2,4]> (k)
        y = Reshape(l, s)""",
        "[1,24,3,11]",
    ),
    "product of a whole map": (
        "h = HardSwish(x) f = Flatten(h) y = Gemm <transB=1> (f, whole, d)",
        "[1,6]",
    ),
    "normalized": (
        """spread = Constant <value_floats=[0.2,1.0,3.0,0.5,0.7,0.9,2.0,0.1]> ()
        least = Constant <value_float=-0.2> () most = Constant <value_float=0.7> ()
        h = HardSwish(x) n = BatchNormalization(h, c, shifts, c, spread)
        y = Clip(n, least, most)""",
        "[1,8,9,11]",
    ),
    "slopes": ("h = Conv(x, p) y = PRelu(h, slopes)", "[1,12,9,11]"),
    "one slope": ("h = Conv(x, p) y = PRelu(h, slope)", "[1,12,9,11]"),
    "mean of channels": ("h = HardSwish(x) y = ReduceMean <axes=[1]> (h)", "[1,1,9,11]"),
    "mean of rows": ("h = HardSwish(x) y = ReduceMean <axes=[2]> (h)", "[1,8,1,11]"),
    "mean of columns, an axis less": (
        "h = HardSwish(x) y = ReduceMean <axes=[3], keepdims=0> (h)",
        "[1,8,9]",
    ),
    "highest of channels": ("h = HardSwish(x) y = ReduceMax <axes=[1]> (h)", "[1,1,9,11]"),
    "highest of columns": ("h = HardSwish(x) y = ReduceMax <axes=[3]> (h)", "[1,8,9,1]"),
    "a column turned to a row": (
        "m = ReduceMean <axes=[3]> (x) h = HardSwish(m) y = Transpose <perm=[0,1,3,2]> (h)",
        "[1,8,1,9]",
    ),
    "nearest by 2": resize("18,22", "2.0,2.0", FLOOR),
    "nearest by 8": resize("72,88", "8.0,8.0", FLOOR),
    "nearest by 3": resize("27,33", "3.0,3.0", FLOOR),
    "nearest, each axis its own": resize("36,33", "4.0,3.0", FLOOR),
    "nearest, rows only": resize("18,11", "2.0,1.0", FLOOR),
    "nearest, half pixels": resize("18,22", "2.0,2.0", 'nearest_mode="round_prefer_ceil"'),
    "nearest by another number": resize("13,16", "1.5,1.5", FLOOR),
    "nearest, rounded up": resize("18,22", "2.0,2.0", FLOOR.replace("floor", "ceil")),
    "transposed": ("h = HardSwish(x) y = ConvTranspose <strides=[2,2]> (h, even)", "[1,6,18,22]"),
    "transposed, padded, with a bias and Relu": (
        "h = HardSwish(x) "
        "t = ConvTranspose <strides=[2,3], pads=[1,0,1,1]> (h, odd, d) y = Relu(t)",
        "[1,6,17,32]",
    ),
    "transposed, output padded": (
        """h = HardSwish(x)
        y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (h, odd)""",
        "[1,6,18,22]",
    ),
    "transposed, depthwise": (
        "h = HardSwish(x) y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], group=8> (h, wide)",
        "[1,8,18,22]",
    ),
    "transposed, dilated": (
        "h = HardSwish(x) y = ConvTranspose <dilations=[2,2]> (h, odd)",
        "[1,6,13,15]",
    ),
    "transposed, strides wider than the kernel": (
        "h = HardSwish(x) y = ConvTranspose <strides=[3,3]> (h, even)",
        "[1,6,26,32]",
    ),
    "channels, added": ("h = HardSwish(x) y = Add(h, each)", "[1,8,9,11]"),
    "channels, added first": ("h = HardSwish(x) y = Add(each, h)", "[1,8,9,11]"),
    "channels, subtracted": ("h = HardSwish(x) y = Sub(h, each)", "[1,8,9,11]"),
    "channels, subtracted from": ("h = HardSwish(x) y = Sub(each, h)", "[1,8,9,11]"),
    "channels, multiplied": ("h = HardSwish(x) t = Mul(h, each) y = Relu(t)", "[1,8,9,11]"),
    "channels of a row": row("y = Mul(r, few)", "[1,8,99]"),
    "row": row("y = HardSwish(r)", "[1,8,99]"),
    "row, convolved": row("y = Conv <pads=[1,2], strides=[2]> (r, u, b)", "[1,16,50]"),
    "row, convolved and clamped": row(
        "t = Conv <dilations=[2]> (r, u, b) y = Relu(t)", "[1,16,95]"
    ),
    "row, depthwise": row("y = Conv <group=8, pads=[2,2]> (r, deep)", "[1,8,99]"),
    "row and back": row(
        "t = Conv(r, u) back = Constant <value_ints=[1,16,97,1]> () y = Reshape(t, back)",
        "[1,16,97,1]",
    ),
    "row, its maxima": row("y = MaxPool <kernel_shape=[3], pads=[1,1]> (r)", "[1,8,99]"),
    "row, its averages": row("y = AveragePool <kernel_shape=[3], pads=[1,1]> (r)", "[1,8,99]"),
    "row, its mean": row("y = ReduceMean <axes=[2], keepdims=0> (r)", "[1,8]"),
    "row, joined": row("y = Concat <axis=-1> (r, r)", "[1,8,198]"),
    "row, joined to another": row(
        "t = Conv <pads=[1,1]> (r, u) y = Concat <axis=1> (t, r)", "[1,24,99]"
    ),
    "row, added": row("t = HardSwish(r) y = Add(r, t)", "[1,8,99]"),
    "highest of a map": ("h = HardSwish(x) y = GlobalMaxPool(h)", "[1,8,1,1]"),
    "concatenation": ("h = HardSwish(x) k = Conv(h, p) y = Concat <axis=1> (h, k)", "[1,20,9,11]"),
    "concatenation with itself": (
        "h = HardSwish(x) k = Conv(h, p) y = Concat <axis=-3> (h, k, h)",
        "[1,28,9,11]",
    ),
    "concatenation of rows": ("h = HardSwish(x) y = Concat <axis=2> (h, x)", "[1,8,18,11]"),
    "concatenation of columns": ("h = HardSwish(x) y = Concat <axis=3> (x, h)", "[1,8,9,22]"),
    "concatenation of vectors": (
        """m = GlobalAveragePool(x) f = Flatten(m) n = HardSwish(f) y = Concat <axis=1> (f, n)""",
        "[1,16]",
    ),
    "maximum": pool("MaxPool", "4,5", "kernel_shape=[2,2], strides=[2,2]"),
    "maximum, padded": pool("MaxPool", "5,6", "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"),
    "maximum, rounded up": pool(
        "MaxPool", "5,6", "kernel_shape=[2,2], strides=[2,2], ceil_mode=1"
    ),
    "maximum, lopsided": pool(
        "MaxPool", "9,6", "kernel_shape=[3,2], strides=[1,2], pads=[2,0,0,1]"
    ),
    "maximum, same": pool("MaxPool", "9,11", 'kernel_shape=[2,2], auto_pad="SAME_UPPER"'),
    "average": pool("AveragePool", "4,5", "kernel_shape=[2,2], strides=[2,2]"),
    "average of a whole map": pool("AveragePool", "1,1", "kernel_shape=[9,11], strides=[9,11]"),
    "average, padded": pool(
        "AveragePool", "5,6", "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]"
    ),
    "average, padding counted": pool(
        "AveragePool", "9,11", "kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1"
    ),
    "average, rounded up": pool(
        "AveragePool", "5,6", "kernel_shape=[2,2], strides=[2,2], ceil_mode=1"
    ),
    "average, lopsided": pool(
        "AveragePool", "3,6", "kernel_shape=[5,3], strides=[3,2], pads=[2,1,1,1]"
    ),
}
CONSTANTS = {
    "even": (8, 6, 2, 2),
    "odd": (8, 6, 3, 3),
    "wide": (8, 1, 4, 4),
    "u": (16, 8, 3),
    "deep": (8, 1, 5),
    "each": (8, 1, 1),
    "few": (1, 8, 1),
    "quarter": (16, 4, 3, 3),
    "forty": (40, 8, 1, 1),
    "five": (20, 8, 3, 3),
    "twice": (16, 1, 3, 3),
    "narrow": (16, 4, 3),
    "slopes": (12, 1, 1),
    "slope": (1,),
    "whole": (6, 792),
    "shifts": (8,),
}
TABLES = {
    **{name: f"y = {name}(h)" for name in ("Tanh", "Erf", "Elu", "Selu", "Softplus", "Softsign")},
    **{name: f"y = {name}(h)" for name in ("LeakyRelu", "Neg", "Abs", "Sigmoid")},
    "LeakyRelu with alpha": "y = LeakyRelu <alpha=0.2> (h)",
    "Elu with alpha": "y = Elu <alpha=1.5> (h)",
    "Sqrt": "t = Relu(h) y = Sqrt(t)",
    "Mish": "y = Mish(h)",
    "Gelu": "y = Gelu(h)",
    "Gelu of BERT": """
        r = Constant <value_float=1.4142135> () one = Constant <value_float=1.0> ()
        half = Constant <value_float=0.5> ()
        scaled = Div(h, r) e = Erf(scaled) f = Add(e, one) m = Mul(h, f) y = Mul(m, half)
    """,
}
REFUSES = {
    "transposed, in groups": (
        "h = HardSwish(x) y = ConvTranspose <group=2> (h, halves)",
        "[1,6,9,11]",
    ),
    "columns, multiplied": ("h = HardSwish(x) y = Mul(h, columns)", "[1,8,9,11]"),
    "mean of channels and rows": (
        "h = HardSwish(x) y = ReduceMean <axes=[1,2]> (h)",
        "[1,1,1,11]",
    ),
    "padded with another number": (
        """s = Constant <value_ints=[0,0,1,1,0,0,1,1]> () n = Constant <value_float=0.5> ()
        h = HardSwish(x) y = Pad(h, s, n)""",
        "[1,8,11,13]",
    ),
    "rows and columns exchanged": (
        "h = HardSwish(x) y = Transpose <perm=[0,1,3,2]> (h)",
        "[1,8,11,9]",
    ),
    "a slope for each column": ("h = HardSwish(x) y = PRelu(h, columns)", "[1,8,9,11]"),
    "product of matrices": ("h = HardSwish(x) y = MatMul(h, wide)", "[1,8,9,7]"),
    "row of swapped axes": (
        "s = Constant <value_ints=[1,99,8,1]> () h = HardSwish(x) y = Reshape(h, s)",
        "[1,99,8,1]",
    ),
    "concatenation with a constant": (
        "h = HardSwish(x) y = Concat <axis=1> (h, map)",
        "[1,9,9,11]",
    ),
    "maximum, dilated": pool("MaxPool", "7,9", "kernel_shape=[2,2], dilations=[2,2]"),
    "maximum, wide strides": pool("MaxPool", "2,2", "kernel_shape=[4,4], strides=[4,4]"),
    "average, wide strides": pool("AveragePool", "2,2", "kernel_shape=[4,4], strides=[4,4]"),
}


@pytest.mark.parametrize("name", FIRES)
def test_it_computes_what_onnxruntime_computes(name: str):
    model = graph_of(*FIRES[name], **CONSTANTS)
    assert difference(model) <= BEHIND_ANOTHER_LSB


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_what_onnxruntime_computes(name: str):
    # Behind a convolution, so that the values are on both sides of 0.
    model = graph_of(f"h = Conv(x, p) {TABLES[name]}", "[1,12,9,11]")
    if name in ("Mish", "Gelu"):
        model.opset_import[0].version = 20
    steps = 4 if name in ("Gelu of BERT", "Sqrt") else 2  # of operators in a row
    assert difference(model) <= steps * BEHIND_ANOTHER_LSB


@pytest.mark.parametrize("name", REFUSES)
def test_it_stays_on_the_cpu_and_is_named(name: str):
    body, out = REFUSES[name]
    channels = out.removeprefix("[").split(",")[1]
    model = graph_of(
        f"{body.replace('y =', 't =')} y = Conv <pads=[1,1,1,1]> (t, last)",
        out.replace(f"[1,{channels},", "[1,4,"),
        last=(4, int(channels), 3, 3),
        map=(1, 1, 9, 11),
        wide=(11, 7),
        columns=(1, 1, 1, 11),
        halves=(8, 3, 1, 1),
    )
    quantized, _ = quantize(model, random_inputs(model, 2), rank_layers=False)
    (refused,) = [node for node in model.graph.node if node.output[0] == "t"]
    kind = refused.op_type
    with pytest.raises(ModelError, match=rf"inside it there would be: {kind} \({refused.name}"):
        npu_part(partition(quantized))
