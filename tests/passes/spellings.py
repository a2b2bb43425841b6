"""Every spelling that a piece of a network may have, as data, and a block made of them.

The spellings are those of torch's two exporters, timm, tf2onnx and Keras, and the orders in which
their operators may stand; written by hand, so that none of these tools has to be installed.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.onnx_text import graph

# The scalars of the activations, by the names that the spellings use.
SCALARS = {
    "zero": 0.0,
    "one": 1.0,
    "three": 3.0,
    "six": 6.0,
    "half": 0.5,
    "sixth": float(np.float32(1 / 6)),
    "bottom": -3.0,
    "top": 3.0,
    "minus_half": -0.5,
}
_BOUNDS = ("zero", "one", "six", "bottom", "top", "minus_half")  # Clip takes scalars only
# One block of ours after the rewrites: depthwise, hard-swish, squeeze-and-excite, projection,
# residual, and the classifier behind it.
CANONICAL = Counter(
    Conv=4, HardSwish=2, GlobalAveragePool=2, Relu=1, Clip=1, Mul=1, Add=1, Flatten=1, Gemm=2
)

# Each piece computes {y} from {x}; {p} makes its tensors' names its own.
RELU6 = "{p}a = Add({x}, three) {p}c = Clip({p}a, zero, six) "
HARDSWISHES = {
    "one operator": "{y} = HardSwish({x})",
    "x · HardSigmoid": "{p}s = HardSigmoid <alpha = 0.16666667> ({x}) {y} = Mul({x}, {p}s)",
    "x · relu6(x + 3) / 6": RELU6 + "{p}m = Mul({x}, {p}c) {y} = Div({p}m, six)",
    "x · relu6(x + 3) · 1/6": RELU6 + "{p}m = Mul({p}c, {x}) {y} = Mul({p}m, sixth)",
    "x · (relu6(x + 3) / 6)": RELU6 + "{p}m = Div({p}c, six) {y} = Mul({p}m, {x})",
    "x · (relu6(x + 3) · 1/6)": RELU6 + "{p}m = Mul({p}c, sixth) {y} = Mul({x}, {p}m)",
    "x / 6 · relu6(x + 3)": "{p}d = Div({x}, six) " + RELU6 + "{y} = Mul({p}c, {p}d)",
    "x · 1/6 · relu6(x + 3)": "{p}d = Mul({x}, sixth) " + RELU6 + "{y} = Mul({p}d, {p}c)",
    "x · (relu6(x + 3) · 1/6), Max then Min": (
        "{p}a = Add(three, {x}) {p}b = Max({p}a, zero) {p}c = Min(six, {p}b) "
        "{p}m = Mul({p}c, sixth) {y} = Mul({p}m, {x})"
    ),
    "x · relu6(x + 3) / 6, Min then Max": (
        "{p}a = Add({x}, three) {p}b = Min({p}a, six) {p}c = Max(zero, {p}b) "
        "{p}m = Mul({x}, {p}c) {y} = Div({p}m, six)"
    ),
    "x · relu6(x + 3) · 1/6, Relu and Min": (
        "{p}a = Add({x}, three) {p}b = Relu({p}a) {p}c = Min({p}b, six) "
        "{p}m = Mul({p}c, {x}) {y} = Mul(sixth, {p}m)"
    ),
    "x · relu6(x − (−3)) / 6": (
        "{p}a = Sub({x}, bottom) {p}c = Clip({p}a, zero, six) "
        "{p}m = Mul({x}, {p}c) {y} = Div({p}m, six)"
    ),
    "x · clip((x + 3) / 6, 0, 1)": (
        "{p}a = Add({x}, three) {p}d = Div({p}a, six) {p}c = Clip({p}d, zero, one) "
        "{y} = Mul({x}, {p}c)"
    ),
    "x · clip(x / 6 + 1/2, 0, 1)": (
        "{p}d = Div({x}, six) {p}a = Add({p}d, half) {p}c = Clip({p}a, zero, one) "
        "{y} = Mul({x}, {p}c)"
    ),
    "x · (clip(x, −3, 3) + 3) / 6": (
        "{p}c = Clip({x}, bottom, top) {p}a = Add({p}c, three) "
        "{p}m = Mul({x}, {p}a) {y} = Div({p}m, six)"
    ),
    "x · (clip(x, −3, 3) · 1/6 + 1/2)": (
        "{p}c = Clip({x}, bottom, top) {p}d = Mul({p}c, sixth) {p}a = Add(half, {p}d) "
        "{y} = Mul({x}, {p}a)"
    ),
    "x · (clip(x / 6, −1/2, 1/2) + 1/2)": (
        "{p}d = Div({x}, six) {p}c = Clip({p}d, minus_half, half) {p}a = Add({p}c, half) "
        "{y} = Mul({p}a, {x})"
    ),
}
GATES = {
    "HardSigmoid": "{y} = HardSigmoid <alpha = 0.16666667> ({x})",
    "relu6(x + 3) / 6": RELU6 + "{y} = Div({p}c, six)",
    "relu6(x + 3) · 1/6": RELU6 + "{y} = Mul(sixth, {p}c)",
    "relu6(x + 3) · 1/6, Min then Max": (
        "{p}a = Add({x}, three) {p}b = Min({p}a, six) {p}c = Max({p}b, zero) "
        "{y} = Mul({p}c, sixth)"
    ),
    "clip((x + 3) · 1/6, 0, 1)": (
        "{p}a = Add({x}, three) {p}d = Mul({p}a, sixth) {y} = Clip({p}d, zero, one)"
    ),
    "clip(x · 1/6 + 1/2, 0, 1)": (
        "{p}d = Mul({x}, sixth) {p}a = Add({p}d, half) {y} = Clip({p}a, zero, one)"
    ),
    "(clip(x, −3, 3) + 3) / 6": (
        "{p}c = Clip({x}, bottom, top) {p}a = Add({p}c, three) {y} = Div({p}a, six)"
    ),
    "clip(x, −3, 3) / 6 + 1/2": (
        "{p}c = Clip({x}, bottom, top) {p}d = Div({p}c, six) {y} = Add({p}d, half)"
    ),
    "relu6(x − (−3)) / 6": (
        "{p}a = Sub({x}, bottom) {p}c = Clip({p}a, zero, six) {y} = Div({p}c, six)"
    ),
}
# Of the activation inside squeeze-and-excite.
RELUS = {
    "Relu": "{y} = Relu({x})",
    "Max with 0": "{y} = Max({x}, zero)",
    "Max with 0, swapped": "{y} = Max(zero, {x})",
    "Clip without a maximum": "{y} = Clip({x}, zero)",
}
SQUEEZES = {
    "Conv after GlobalAveragePool": (
        "s0 = GlobalAveragePool(d) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) s3 = Conv(s2, w2c, b2)",
        "",
    ),
    "Conv after ReduceMean": (
        "s0 = ReduceMean <axes = [-1, -2]> (d) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) "
        "s3 = Conv(s2, w2c, b2)",
        "",
    ),
    "Gemm between Flatten and Reshape": (
        "s = GlobalAveragePool(d) s0 = Flatten(s) s1 = Gemm <transB = 1> (s0, w1, b1) "
        "s2 = Relu(s1) s3 = Gemm <transB = 1> (s2, w2, b2)",
        "g1 = Reshape(g, pixel)",
    ),
    "MatMul after ReduceMean without keepdims": (
        "s0 = ReduceMean <axes = [2, 3], keepdims = 0> (d) m1 = MatMul(s0, w1t) "
        "s1 = Add(b1, m1) s2 = Relu(s1) m2 = MatMul(s2, w2t) s3 = Add(m2, b2)",
        "g1 = Unsqueeze(g, two_three)",
    ),
    "AveragePool over the map, Squeeze, Unsqueeze": (
        "s = AveragePool <kernel_shape = [6, 6]> (d) s0 = Squeeze(s, two_three) "
        "s1 = Gemm <transB = 1> (s0, w1, b1) s2 = Relu(s1) s3 = Gemm(s2, w2t, b2)",
        "g0 = Unsqueeze(g, two) g1 = Unsqueeze(g0, three_i)",
    ),
    "NHWC, Reshape": (
        "t = Transpose <perm = [0, 2, 3, 1]> (d) s = ReduceMean <axes = [1, 2], keepdims = 0> (t) "
        "s00 = Reshape(s, pixel_nhwc) s0 = Transpose <perm = [0, 3, 1, 2]> (s00) "
        "s1 = Conv(s0, w1c, b1) s2 = Relu(s1) s3 = Conv(s2, w2c, b2)",
        "g0 = Transpose <perm = [0, 2, 3, 1]> (g) m = Mul(g0, t) "
        "e = Transpose <perm = [0, 3, 1, 2]> (m)",
    ),
    "NHWC": (
        "t = Transpose <perm = [0, 2, 3, 1]> (d) s = ReduceMean <axes = [1, 2]> (t) "
        "s0 = Transpose <perm = [0, 3, 1, 2]> (s) s1 = Conv(s0, w1c, b1) s2 = Relu(s1) "
        "s3 = Conv(s2, w2c, b2)",
        "g0 = Transpose <perm = [0, 2, 3, 1]> (g) m = Mul(t, g0) "
        "e = Transpose <perm = [0, 3, 1, 2]> (m)",
    ),
}
PADDINGS = {
    "pads of the Conv": "c = Conv <group = 4, pads = [1, 1, 1, 1]> (x, wd, bd)",
    "auto_pad NOTSET": (
        'c = Conv <group = 4, auto_pad = "NOTSET", pads = [1, 1, 1, 1]> (x, wd, bd)'
    ),
    "auto_pad SAME_UPPER": 'c = Conv <group = 4, auto_pad = "SAME_UPPER"> (x, wd, bd)',
    "auto_pad SAME_LOWER": 'c = Conv <group = 4, auto_pad = "SAME_LOWER"> (x, wd, bd)',
    "Pad": "p = Pad(x, pads) c = Conv <group = 4> (p, wd, bd)",
    "Pad, auto_pad VALID": 'p = Pad(x, pads) c = Conv <group = 4, auto_pad = "VALID"> (p, wd, bd)',
    "Pad in NHWC": (
        "t0 = Transpose <perm = [0, 2, 3, 1]> (x) p0 = Pad(t0, pads_nhwc) "
        "p = Transpose <perm = [0, 3, 1, 2]> (p0) c = Conv <group = 4> (p, wd, bd)"
    ),
    # max((ceil(size / 1) − 1) · 1 + 3 − size, 0), half of it on each side, as timm computes it.
    "Pad by Shape, Gather, Cast, Div, Ceil, Concat": (
        "k = Shape(x) k0 = Gather(k, second_i) k1 = Cast <to = 1> (k0) k2 = Div(k1, one) "
        "k3 = Ceil(k2) k4 = Sub(k3, one) k5 = Add(k4, top) k6 = Sub(k5, k1) k7 = Max(k6, zero) "
        "k8 = Cast <to = 7> (k7) k9 = Div(k8, two_i) k10 = Unsqueeze(k9, first_i) "
        "k11 = Concat <axis = 0> (zeros_i, k10, k10, zeros_i, k10, k10) p = Pad(x, k11, zero) "
        "c = Conv <group = 4> (p, wd, bd)"
    ),
}
# Of the same convolution: what stands behind it.
NORMS = {
    "none": "",
    "BatchNormalization": "c = BatchNormalization(c0, bn, bd, bn0, bn1)",
    "Mul and Add": "c1 = Mul(c0, scale) c = Add(c1, bdc)",
    "Sub, Div, Mul and Add": (
        "c1 = Sub(c0, bdc) c2 = Div(c1, scale) c3 = Mul(c2, scale) c = Add(c3, bdc)"
    ),
}
HEADS = {
    "Flatten": "q = GlobalAveragePool(r) f = Flatten(q)",
    "Reshape": "q = GlobalAveragePool(r) f = Reshape(q, rest)",
    "Squeeze": "q = GlobalAveragePool(r) f = Squeeze(q, two_three)",
    "ReduceMean": "f = ReduceMean <axes = [2, 3], keepdims = 0> (r)",
    "ReduceMean, Flatten": "q = ReduceMean <axes = [2, 3]> (r) f = Flatten(q)",
    "ReduceMean, Reshape": "q = ReduceMean <axes = [-2, -1]> (r) f = Reshape(q, rest)",
    "ReduceMean, Squeeze": "q = ReduceMean <axes = [3, 2]> (r) f = Squeeze(q, two_three)",
    "AveragePool over the map, Flatten": (
        "q = AveragePool <kernel_shape = [6, 6]> (r) f = Flatten(q)"
    ),
    "Shape, Gather, Concat, Reshape": (
        "q = GlobalAveragePool(r) n0 = Shape(q) n1 = Gather(n0, first) "
        "n2 = Unsqueeze(n1, first_i) n3 = Concat <axis = 0> (n2, minus) f = Reshape(q, n3)"
    ),
    "ReduceMean in NHWC": (
        "q0 = Transpose <perm = [0, 2, 3, 1]> (r) "
        "f = ReduceMean <axes = [1, 2], keepdims = 0> (q0)"
    ),
}
# The two layers behind the pool: the first one and the last one.
CLASSIFIERS = {
    "Gemm": ("h0 = Gemm <transB = 1> (f, wh, bh)", "y = Gemm(f2, wl, bl)"),
    "MatMul and Add": (
        "m0 = MatMul(f, wht) h0 = Add(m0, bh)",
        "l = MatMul(f2, wl) y = Add(bl, l)",
    ),
    "1x1 Conv, then Gemm": (
        "h0 = Conv(q, whc, bh)",
        "l = Flatten(f2) y = Gemm <transB = 1> (l, wlt, bl)",
    ),
    "1x1 Conv": ("h0 = Conv(q, whc, bh)", "l = Conv(f2, wlc, bl) y = Reshape(l, rest)"),
}
DROPPED = {
    "nothing": "f2 = Identity(h1)",
    "Dropout, Identity": "f1 = Dropout(h1) f2 = Identity(f1)",
    "Dropout, training_mode False": "f2 = Dropout(h1, half, never)",
    "Dropout with a mask": "f2, mask = Dropout(h1)",
    "Cast to the same type": "f2 = Cast <to = 1> (h1)",
}
# What one wrong number does to any spelling that uses it.
WRONG = {
    "three": 2.9,
    "six": 4.0,
    "sixth": 0.2,
    "half": 0.4,
    "zero": -1.0,
    "one": 2.0,
    "bottom": -2.0,
    "top": 2.0,
    "minus_half": -0.4,
}
CONSTANTS = ("initialisers", "Constant nodes", "fp16 behind Cast")


def block(
    swish: str = "one operator",
    gate: str = "HardSigmoid",
    squeeze: str = "Conv after GlobalAveragePool",
    relu: str = "Relu",
    padding: str = "pads of the Conv",
    norm: str = "none",
    head: str = "Flatten",
    classifier: str = "Gemm",
    dropped: str = "nothing",
    rank: int = 0,
    constants: str = "initialisers",
) -> onnx.ModelProto:
    """Return a block of MobileNetV3 and a classifier in these spellings."""
    return spelled(
        "float[1, 4, 6, 6] x",
        "float[1, 3] y",
        convolution(padding, norm),
        HARDSWISHES[swish].format(x="c", y="d", p="d"),
        squeezed(squeeze, gate, relu),
        "o = Conv(e, wp, bd) r = Add(x, o)",
        classified(head, classifier, swish, dropped),
        rank=rank,
        constants=constants,
    )


def convolution(padding: str, norm: str) -> str:
    """Return the depthwise convolution: c from x."""
    text = PADDINGS[padding]
    if norm == "none":
        return text
    return text.replace("c = Conv", "c0 = Conv").replace("wd, bd)", "wd)") + " " + NORMS[norm]


def squeezed(squeeze: str, gate: str, relu: str) -> str:
    """Return squeeze-and-excite: e from d."""
    before, after = SQUEEZES[squeeze]
    before = before.replace("s2 = Relu(s1)", RELUS[relu].format(x="s1", y="s2"))
    scale = after if "Mul(" in after else f"{after} e = Mul(d, {'g1' if after else 'g'})"
    return f"{before} {GATES[gate].format(x='s3', y='g', p='g')} {scale}"


def classified(head: str, classifier: str, swish: str, dropped: str) -> str:
    """Return what makes the logits: y from r."""
    first, last = CLASSIFIERS[classifier]
    pool = "q = GlobalAveragePool(r)" if "(q," in first else HEADS[head]
    hidden = HARDSWISHES[swish].format(x="h0", y="h1", p="h")
    return f"{pool} {first} {hidden} {DROPPED[dropped]} {last}"


def spelled(
    source: str, result: str, *body: str, rank: int = 0, constants: str = "initialisers"
) -> onnx.ModelProto:
    """Return a graph of these pieces with the parameters that they use, stored in that way."""
    text = f"g ({source}) => ({result}) {{ {' '.join(body)} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    used = {name for node in model.graph.node for name in node.input}
    arrays = {name: array for name, array in parameters(rank).items() if name in used}
    if constants == "initialisers":
        return graph(text, 17, **arrays)
    before = []
    for name in [name for name in arrays if name in SCALARS]:
        half = arrays[name].astype(np.float16)
        if constants == "Constant nodes":
            tensor = numpy_helper.from_array(arrays.pop(name), name)
            before.append(helper.make_node("Constant", [], [name], value=tensor))
        elif half == arrays[name]:  # 1/6 in fp16 is another number
            arrays[f"{name}_half"] = half
            del arrays[name]
            before.append(helper.make_node("Cast", [f"{name}_half"], [name], to=1))
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def parameters(rank: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((8, 4)), rng.standard_normal((4, 8))
    floats = {
        "w1": w1,
        "w2": w2,
        "w1t": w1.T,
        "w2t": w2.T,
        "w1c": w1[..., None, None],
        "w2c": w2[..., None, None],
        "b1": rng.standard_normal(8),
        "b2": rng.standard_normal(4),
        "wd": rng.standard_normal((4, 1, 3, 3)),
        "wp": rng.standard_normal((4, 4, 1, 1)),
        "wh": rng.standard_normal((5, 4)),
        "wl": rng.standard_normal((5, 3)),
        "bd": rng.standard_normal(4),
        "bh": rng.standard_normal(5),
        "bl": rng.standard_normal(3),
        "bn": rng.uniform(0.5, 1.5, 4),
        "bn0": rng.standard_normal(4),
        "bn1": rng.uniform(0.5, 1.5, 4),
        "scale": rng.uniform(0.5, 2, (1, 4, 1, 1)),
        **{
            name: np.full(
                (1,) * (0 if name in _BOUNDS or name == "half" else min(rank, 2)), number
            )
            for name, number in SCALARS.items()
        },
    }
    floats |= {"wht": floats["wh"].T, "whc": floats["wh"][..., None, None]}
    floats |= {"wlt": floats["wl"].T, "wlc": floats["wl"].T[..., None, None]}
    floats["bdc"] = floats["bd"].reshape(4, 1, 1)
    integers = {
        "pads": [0, 0, 1, 1, 0, 0, 1, 1],
        "pixel": [1, -1, 1, 1],
        "pixel_nhwc": [-1, 1, 1, 4],
        "pads_nhwc": [0, 1, 1, 0, 0, 1, 1, 0],
        "rest": [1, -1],
        "two_three": [2, 3],
        "two": [2],
        "second_i": 2,
        "two_i": 2,
        "zeros_i": [0, 0],
        "three_i": [3],
        "first": 0,
        "first_i": [0],
        "minus": [-1],
    }
    arrays = {name: np.asarray(array, np.float32) for name, array in floats.items()}
    arrays |= {name: np.array(array, np.int64) for name, array in integers.items()}
    return arrays | {"never": np.array(False)}


def hardswish(key: str, outputs: str = "", more: str = "") -> onnx.ModelProto:
    """Return a lone hard-swish, with further outputs and nodes."""
    body = HARDSWISHES[key].format(x="x", y="y", p="p")
    shape = "float[1, 4, 6, 6]"
    return spelled(f"{shape} x", f"{shape} y{outputs}", body, more)


def with_number(model: onnx.ModelProto, name: str, number: float) -> onnx.ModelProto:
    """Put another number in the place of a scalar."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.array(number, np.float32), name))
    return model


_IMAGE, _MAP = "float[1, 4, 6, 6]", "float[1, 4, 6, 6] y"
# Each kind of piece, its spellings, and the smallest graph of one of them.
PIECES: dict[str, tuple[Iterable[str], Callable[[str], onnx.ModelProto]]] = {
    "hard-swish": (
        HARDSWISHES,
        lambda key: spelled(f"{_IMAGE} x", _MAP, HARDSWISHES[key].format(x="x", y="y", p="p")),
    ),
    "hard-sigmoid": (
        GATES,
        lambda key: spelled(f"{_IMAGE} x", _MAP, GATES[key].format(x="x", y="y", p="p")),
    ),
    "ReLU": (
        RELUS,
        lambda key: spelled(f"{_IMAGE} x", _MAP, RELUS[key].format(x="x", y="y")),
    ),
    "squeeze-and-excite": (
        SQUEEZES,
        lambda key: spelled(f"{_IMAGE} d", f"{_IMAGE} e", squeezed(key, "HardSigmoid", "Relu")),
    ),
    "padding": (
        PADDINGS,
        lambda key: spelled(f"{_IMAGE} x", f"{_IMAGE} c", convolution(key, "none")),
    ),
    "normalisation": (
        NORMS,
        lambda key: spelled(f"{_IMAGE} x", f"{_IMAGE} c", convolution("pads of the Conv", key)),
    ),
    "pool": (
        HEADS,
        lambda key: spelled(f"{_IMAGE} r", "float[1, 4] f", HEADS[key]),
    ),
    "classifier": (
        CLASSIFIERS,
        lambda key: spelled(
            f"{_IMAGE} r",
            "float[1, 3] y",
            classified("Flatten", key, "one operator", "nothing"),
        ),
    ),
    "inference only": (
        DROPPED,
        lambda key: spelled(
            "float[1, 5] h0", "float[1, 5] y", f"h1 = Relu(h0) {DROPPED[key]} y = Relu(f2)"
        ),
    ),
}
