"""How each tool spells a whole MobileNetV3, as data, and the network written that way.

Every exporter was run on its own MobileNetV3-Large (no pretrained weights) and its operators were
counted; `operators` holds that count, and `tests/passes/test_spellings_page.py` holds the network
written here to it. Identity and Constant nodes are left out: their number depends on the weights.
Compared with: torch 2.13.0, torchvision 0.28.0, timm 1.0.31, TensorFlow 2.21.0, Keras 3.15.1,
tf2onnx 1.17.0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.inference_mode import inference_mode
from mbv3c.graphs.spec import ModelSpec
from mbv3c.passes import PassReport
from mbv3c.passes.fuse_hardsigmoid import FuseHardSigmoid
from mbv3c.passes.fuse_hardswish import FuseHardSwish
from tests.passes.spellings import GATES, HARDSWISHES
from tests.passes.test_pipeline import optimized


@dataclass(frozen=True)
class Exporter:
    """What each piece of a network is spelled as, in ONNX text.

    {x} is what a piece is given, {y} what it makes, {p} makes its tensors' names its own. Of a
    convolution {a} are the attributes and {bare} those without pads; {w} is its weight and {b} its
    bias; {s}, {t}, {m}, {v} are scale, shift, mean and variance of its BatchNormalization; {wf}
    and {bf} are weight and bias with that folded, {wh} is half of that weight, {twos} are twos;
    {pads} and {pads_nhwc} are the operands of Pad.

    Attributes:
        operators: how often each operator stands in the exporter's own Large.
        opset: version of the operator set.
        swish: a key of HARDSWISHES.
        gate: a key of GATES.
        conv: a convolution that is followed by BatchNormalization.
        depthwise: the same where it is depthwise, if that is spelled otherwise.
        strided: the same where it is depthwise and has stride 2.
        stem: the same where it is the first one.
        layer: a convolution with a bias, in squeeze-and-excite.
        squeeze: its pool.
        head: from the last feature map to what the first layer of the classifier is given.
        first, last: the layers of the classifier.
        between: what stands between them.
        before, after: what is done to the image and to the logits.
        spec: the network that is written.
        nhwc: whether the image is NHWC.
        left: what is left after the rewrites that our own network has not.
    """

    operators: Mapping[str, int]
    opset: int
    swish: str = "one operator"
    gate: str = "HardSigmoid"
    conv: str = "{y} = Conv <{a}> ({x}, {wf}, {bf})"
    depthwise: str = ""
    strided: str = ""
    stem: str = ""
    layer: str = "{y} = Conv <{a}> ({x}, {w}, {b})"
    squeeze: str = "{y} = GlobalAveragePool({x})"
    head: str = "{p}g = GlobalAveragePool({x}) {y} = Flatten({p}g)"
    first: str = "{y} = Gemm <transB = 1> ({x}, {w}, {b})"
    last: str = "{y} = Gemm <transB = 1> ({x}, {w}, {b})"
    between: str = "{y} = Identity({x})"
    before: str = "{y} = Identity({x})"
    after: str = "{y} = Identity({x})"
    spec: ModelSpec = field(default=ModelSpec("large", resolution=96, classes=10))
    nhwc: bool = False
    left: Mapping[str, int] = field(default_factory=dict)


_SMALL_KERAS = replace(ModelSpec("large"), resolution=96, classes=10, padding="same")
_TO_NCHW = "Transpose <perm = [0, 3, 1, 2]>"
_TO_NHWC = "Transpose <perm = [0, 2, 3, 1]>"
_BATCHNORM = "{y} = BatchNormalization <epsilon = 0.001> ({p}c, {s}, {t}, {m}, {v})"
_UNFOLDED = "{p}c = Conv <{a}> ({x}, {w}) " + _BATCHNORM
_TRAINED = "{p}c = Conv <{a}> ({x}, {w}) {y}, {p}d, {p}e"
_OPERANDS = "({p}c, {s}, {t}, {m}, {v})"
_DROPPED = "{p}n = Constant <value = bool n {{1}}> () {y}, {p}k = Dropout({x}, half, {p}n)"
# Without optimisation the second exporter gives every convolution a bias of zeros.
_EXPANDED = (
    "{p}n = Shape <start = 0, end = 1> ({w}) {p}e = Expand({p}n, one_i) "
    "{p}l = CastLike(zero, {x}) {p}b = Expand({p}l, {p}e) {p}c = Conv <{a}> (INPUT, {w}, {p}b) "
) + _BATCHNORM
_MEAN = "{p}r = Reshape(two_three, minus_i) {y} = ReduceMean({x}, {p}r)"
_MEAN_HEAD = (
    "{p}r = Reshape(two_three, minus_i) {p}g = ReduceMean({x}, {p}r) "
    "{p}n = Concat <axis = 0> (one_i, minus_i) {y} = Reshape({p}g, {p}n)"
)
_TORCH = {"Add": 10, "Conv": 62, "Gemm": 2, "Relu": 19}
_FIRST = _TORCH | {"GlobalAveragePool": 9, "Flatten": 1}  # torch's first exporter
_OLD = {"HardSigmoid": 29, "Mul": 29}  # without HardSwish
_NEW = {"HardSigmoid": 8, "HardSwish": 21, "Mul": 8}
_BN = {"BatchNormalization": 46}
_SECOND = _TORCH | _NEW | {"ReduceMean": 9, "Reshape": 1}
_SECOND_RAW = _SECOND | _BN | {"CastLike": 46, "Concat": 1, "Expand": 92, "Reshape": 10}
_SECOND_RAW |= {"Shape": 46}
_KERAS = {"Add": 86, "Clip": 29, "Conv": 64, "Mul": 74, "Pad": 4, "ReduceMean": 9, "Relu": 19}
_KERAS |= {"Reshape": 1, "Softmax": 1, "Transpose": 128}
_KERAS_MINIMALISTIC = {"Add": 26, "Conv": 48, "GlobalAveragePool": 1, "Mul": 16, "Pad": 4}
_KERAS_MINIMALISTIC |= {"Relu": 32, "Reshape": 3, "Softmax": 1, "Transpose": 1}

_TORCH_13 = Exporter(_FIRST | _OLD, 13, swish="x · HardSigmoid")
_TORCH_17 = Exporter(_FIRST | _NEW, 17)
_TORCH_18 = Exporter(
    _SECOND,
    18,
    squeeze="{y} = ReduceMean({x}, two_three)",
    head="{p}g = ReduceMean({x}, two_three) {y} = Reshape({p}g, one_minus)",
)
_TORCH_18_RAW = replace(
    _TORCH_18,
    operators=_SECOND_RAW,
    conv=_EXPANDED.replace("INPUT", "{x}"),
    squeeze=_MEAN,
    head=_MEAN_HEAD,
)
_TIMM = replace(
    _TORCH_17,
    operators=_FIRST
    | _NEW
    | _BN
    | {"Conv": 63, "Gemm": 1, "GlobalAveragePool": 1, "ReduceMean": 8},
    conv=_UNFOLDED,
    squeeze="{y} = ReduceMean <axes = [2, 3]> ({x})",
    head="{y} = GlobalAveragePool({x})",
    first="{y} = Conv({x}, {w4}, {b})",
    last="{p}f = Flatten({x}) {y} = Gemm <transB = 1> ({p}f, {w}, {b})",
)
_NHWC_CONV = f"{{p}}i = {_TO_NCHW}({{x}}) {{p}}c = Conv <{{a}}> ({{p}}i, {{wf}}) "
_NHWC_DEPTHWISE = (
    f"{{p}}c = Conv <{{a}}> ({{p}}i, {{wh}}) {{p}}o = {_TO_NHWC}({{p}}c) "
    "{p}s = Mul({p}o, {twos}) {y} = Add({p}s, {bf})"
)
_NHWC_LAYER = (
    f"{{p}}i = {_TO_NCHW}({{x}}) {{p}}c = Conv({{p}}i, {{w4}}, {{b}}) {{y}} = {_TO_NHWC}({{p}}c)"
)
_RESCALED = "{p}m = Mul({x}, small) {y} = Add({p}m, minus)"
_KERAS_17 = Exporter(
    _KERAS,
    17,
    swish="x · (relu6(x + 3) · 1/6)",
    gate="relu6(x + 3) · 1/6",
    conv=f"{_NHWC_CONV} {{p}}o = {_TO_NHWC}({{p}}c) {{y}} = Add({{p}}o, {{bf}})",
    depthwise=f"{{p}}i = {_TO_NCHW}({{x}}) {_NHWC_DEPTHWISE}",
    strided=(
        f"{{p}}z = Pad({{x}}, {{pads_nhwc}}) {{p}}i = {_TO_NCHW}({{p}}z) "
        + _NHWC_DEPTHWISE.replace("{a}", "{bare}")
    ),
    layer=_NHWC_LAYER,
    squeeze="{y} = ReduceMean <axes = [1, 2]> ({x})",
    head="{y} = ReduceMean <axes = [1, 2]> ({x})",
    first=_NHWC_LAYER,
    last=f"{_NHWC_LAYER.replace('{y}', '{p}o')} {{y}} = Reshape({{p}}o, one_minus)",
    before=_RESCALED,
    after="{y} = Softmax({x})",
    spec=_SMALL_KERAS,
    nhwc=True,
    left={"Add": 1, "Softmax": 1, "Transpose": 1},
)
_KERAS_SCALED = "{y} = Add({p}s, {bf3})"

EXPORTERS = {
    "torch.onnx, opset 11": replace(_TORCH_13, opset=11),
    "torch.onnx, opset 11, not folded": replace(
        _TORCH_13, operators=_FIRST | _OLD | _BN, opset=11, conv=_UNFOLDED
    ),
    "torch.onnx, opset 13": _TORCH_13,
    "torch.onnx, opset 13, training": replace(
        _TORCH_13,
        operators=_FIRST | _OLD | _BN | {"Dropout": 1},
        conv=_TRAINED + ", {p}f, {p}h = BatchNormalization <epsilon = 0.001> " + _OPERANDS,
        between=_DROPPED,
    ),
    "torch.onnx, opset 17": _TORCH_17,
    "torch.onnx, opset 17, not folded": replace(
        _TORCH_17, operators=_FIRST | _NEW | _BN, conv=_UNFOLDED
    ),
    "torch.onnx, opset 17, training": replace(
        _TORCH_17,
        operators=_FIRST | _NEW | _BN | {"Dropout": 1},
        conv=_TRAINED + " = BatchNormalization <epsilon = 0.001, training_mode = 1> " + _OPERANDS,
        between=_DROPPED,
    ),
    "torch.onnx, opset 18, not folded": replace(
        _TORCH_17, operators=_FIRST | _NEW | _BN, opset=18, conv=_UNFOLDED
    ),
    "torch.onnx dynamo, opset 18": _TORCH_18,
    "torch.onnx dynamo, opset 18, not optimised": _TORCH_18_RAW,
    "timm, opset 17, not folded": _TIMM,
    "timm tf_, dynamo, opset 18, not optimised": replace(
        _TORCH_18_RAW,
        operators=_SECOND_RAW | {"Conv": 63, "Gemm": 1, "Pad": 5},
        stem="{p}z = Pad({x}, {pads}) "
        + _EXPANDED.replace("INPUT", "{p}z").replace("{a}", "{bare}"),
        strided="{p}z = Pad({x}, {pads}) "
        + _EXPANDED.replace("INPUT", "{p}z").replace("{a}", "{bare}"),
        head=_MEAN,
        first="{y} = Conv({x}, {w4}, {b})",
        last="{p}n = Concat <axis = 0> (one_i, minus_i) {p}f = Reshape({x}, {p}n) "
        "{y} = Gemm <transB = 1> ({p}f, {w}, {b})",
        spec=_SMALL_KERAS,
    ),
    "Keras by tf2onnx, opset 11": replace(_KERAS_17, opset=11),
    "Keras by tf2onnx, opset 17": _KERAS_17,
    "Keras' own export, opset 15": replace(_KERAS_17, opset=15),
    "Keras minimalistic by tf2onnx, opset 17": Exporter(
        _KERAS_MINIMALISTIC,
        17,
        swish="",  # it has neither
        gate="",
        depthwise="{p}c = Conv <{a}> ({x}, {wh}) {p}s = Mul({p}c, {twos3}) " + _KERAS_SCALED,
        strided="{p}z = Pad({x}, {pads}) {p}c = Conv <{bare}> ({p}z, {wh}) "
        "{p}s = Mul({p}c, {twos3}) " + _KERAS_SCALED,
        head="{p}g = GlobalAveragePool({x}) {y} = Reshape({p}g, as_pixel)",
        first="{y} = Conv({x}, {w4}, {b})",
        between="{y} = Reshape({x}, as_pixel)",
        last="{p}c = Conv({x}, {w4}, {b}) {y} = Reshape({p}c, one_minus)",
        before=f"{_RESCALED.replace('{y}', '{p}s')} {{y}} = {_TO_NCHW}({{p}}s)",
        after="{y} = Softmax({x})",
        spec=replace(_SMALL_KERAS, minimalistic=True),
        nhwc=True,
        left={"Add": 1, "Softmax": 1, "Transpose": 1},
    ),
}

_NUMBERS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "three": np.float32(3),
    "six": np.float32(6),
    "half": np.float32(0.5),
    "sixth": np.float32(1 / 6),
    "small": np.float32(1 / 127.5),
    "minus": np.float32(-1),
    "one_i": np.array([1]),
    "minus_i": np.array([-1]),
    "two_three": np.array([2, 3]),
    "one_minus": np.array([1, -1]),
    "as_pixel": np.array([1, -1, 1, 1]),
}


@cache
def own(spec: ModelSpec) -> onnx.ModelProto:
    """Return a network as we build it; nothing may change it."""
    return build_model(spec)


def written(exporter: Exporter) -> onnx.ModelProto:
    """Return the network as the exporter spells it, with our own seeded weights."""
    network, _ = FuseHardSwish()(FuseHardSigmoid()(own(exporter.spec))[0])
    pieces = _Pieces(exporter, network)
    body = " ".join(pieces.text())
    size = exporter.spec.resolution
    shape = [1, size, size, 3] if exporter.nhwc else [1, 3, size, size]
    classes = exporter.spec.classes
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {exporter.opset}]> '
        f"g (float{shape} image) => (float[1, {classes}] result) {{ {body} }}"
    )
    used = {name for node in model.graph.node for name in node.input}
    arrays = {name: array for name, array in pieces.arrays.items() if name in used}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    return model


@cache
def optimized_by(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto, list[PassReport]]:
    """Return the network of an exporter in inference mode, what it ends as, and the reports."""
    model, _ = inference_mode(written(EXPORTERS[name]))
    return (model, *optimized(model))


class _Pieces:
    """Walks our own network and spells its pieces; `arrays` are the parameters met so far."""

    def __init__(self, exporter: Exporter, network: onnx.ModelProto) -> None:
        self._exporter = exporter
        self._nodes = list(network.graph.node)
        self._stored = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
        self._names = {network.graph.input[0].name: "start"}
        self.arrays: dict[str, np.ndarray] = {n: np.asarray(a) for n, a in _NUMBERS.items()}

    def text(self) -> Iterator[str]:
        """Return the text of one piece after the other."""
        yield self._exporter.before.format(x="image", y="start", p="before_")
        for i, node in enumerate(self._nodes):
            yield self._piece(i, node)
        yield self._exporter.after.format(x="stop", y="result", p="after_")

    def _piece(self, i: int, node: onnx.NodeProto) -> str:
        how, p = self._exporter, f"n{i}_"
        inputs = [self._names.get(name, name) for name in node.input]
        final = node is self._nodes[-1]
        self._names[node.output[0]] = y = "stop" if final else f"t{i}"
        names = {"x": inputs[0], "y": y, "p": p}
        if node.op_type == "Conv":
            return self._convolution(i, node, names)
        if node.op_type == "BatchNormalization" or node.op_type == "Flatten":
            self._names[node.output[0]] = inputs[0]  # spelled with what stands before it
            return ""
        if node.op_type == "GlobalAveragePool":
            last = self._nodes[i + 1].op_type == "Flatten"
            return (how.head if last else how.squeeze).format(**names)
        if node.op_type == "Gemm":
            names |= self._dense(node, p)
            if not final:
                return how.first.format(**names)
            between = how.between.format(x=inputs[0], y=f"{p}x", p=p)
            return f"{between} {how.last.format(**names | {'x': f'{p}x'})}"
        if node.op_type == "HardSwish":
            return HARDSWISHES[how.swish].format(**names)
        if node.op_type == "HardSigmoid":
            return GATES[how.gate].format(**names)
        return f"{y} = {node.op_type}({', '.join(inputs)})"

    def _convolution(self, i: int, conv: onnx.NodeProto, names: dict[str, str]) -> str:
        how = self._exporter
        given = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
        weight = self._stored[conv.input[1]]
        names["a"] = ", ".join(f"{name} = {value}" for name, value in given.items())
        names["bare"] = ", ".join(f"{k} = {v}" for k, v in given.items() if k != "pads")
        following = self._nodes[i + 1]
        if following.op_type != "BatchNormalization":
            bias = self._stored[conv.input[2]]
            names |= self._store(names["p"], w=weight, w4=weight, b=bias)
            return how.layer.format(**names)
        scale, shift, mean, variance = (self._stored[name] for name in following.input[1:])
        factor = scale / np.sqrt(variance + np.float32(how.spec.bn_epsilon))
        folded = weight * factor[:, None, None, None]
        top, left, bottom, right = given.get("pads", [0] * 4)
        twos, bias = np.full(len(scale), 2, np.float32), shift - mean * factor
        names |= self._store(
            names["p"],
            w=weight,
            s=scale,
            t=shift,
            m=mean,
            v=variance,
            wf=folded,
            wh=folded / 2,
            bf=bias,
            bf3=bias[:, None, None],
            twos=twos,
            twos3=twos[:, None, None],
            pads=np.array([0, 0, top, left, 0, 0, bottom, right]),
            pads_nhwc=np.array([0, top, left, 0, 0, bottom, right, 0]),
        )
        template = how.conv
        if given.get("group", 1) > 1:
            template = how.depthwise or template
            if given.get("strides", [1])[0] == 2:
                template = how.strided or template
        elif weight.shape[1] == 3:
            template = how.stem or template
        return template.format(**names)

    def _dense(self, gemm: onnx.NodeProto, p: str) -> dict[str, str]:
        weight, bias = (self._stored[name] for name in gemm.input[1:])
        return self._store(p, w=weight, w4=weight[..., None, None], b=bias)

    def _store(self, p: str, **arrays: np.ndarray) -> dict[str, str]:
        self.arrays |= {f"{p}{name}_": array for name, array in arrays.items()}
        return {name: f"{p}{name}_" for name in arrays}
