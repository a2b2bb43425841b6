"""State dicts named as torchvision and timm name them, and .pt files, without either or torch.

The names come from nesting modules in the order in which those libraries construct them, so the
k-th tensor of a state dict belongs to the k-th weight of the graph.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np

Tensors = list[tuple[str, tuple[int, ...]]]
COUNTER = "num_batches_tracked"

# torchvision's `bneck_conf` lines: kernel, expanded and output channels, SE; then the last
# convolution and the hidden layer.
TORCHVISION_BLOCKS = {
    "large": """
        3 16 16 -, 3 64 24 -, 3 72 24 -, 5 72 40 SE, 5 120 40 SE, 5 120 40 SE, 3 240 80 -,
        3 200 80 -, 3 184 80 -, 3 184 80 -, 3 480 112 SE, 3 672 112 SE, 5 672 160 SE,
        5 960 160 SE, 5 960 160 SE
    """,
    "small": """
        3 16 16 SE, 3 72 24 -, 3 88 24 -, 5 96 40 SE, 5 240 40 SE, 5 240 40 SE, 5 120 48 SE,
        5 144 48 SE, 5 288 96 SE, 5 576 96 SE, 5 576 96 SE
    """,
}
TORCHVISION_TAIL = {"large": (960, 1280), "small": (576, 1024)}

# What timm's `_gen_mobilenet_v3` hands to `decode_arch_def`, a line for a stage.
TIMM_STAGES = {
    "large": """
        ds_r1_k3_s1_e1_c16_nre
        ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre
        ir_r3_k5_s2_e3_c40_se0.25_nre
        ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
        ir_r2_k3_s1_e6_c112_se0.25
        ir_r3_k5_s2_e6_c160_se0.25
        cn_r1_k1_s1_c960
    """,
    "small": """
        ds_r1_k3_s2_e1_c16_se0.25_nre
        ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre
        ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25
        ir_r2_k5_s1_e3_c48_se0.25
        ir_r3_k5_s2_e6_c96_se0.25
        cn_r1_k1_s1_c576
    """,
}


def named(**children: Tensors) -> Tensors:
    return [(f"{child}.{n}", shape) for child, module in children.items() for n, shape in module]


def sequential(*children: Tensors) -> Tensors:
    return named(**{str(index): child for index, child in enumerate(children)})


def conv(inputs: int, outputs: int, kernel: int = 1, *, bias: bool = False) -> Tensors:
    return [("weight", (outputs, inputs, kernel, kernel))] + [("bias", (outputs,))] * bias


def linear(inputs: int, outputs: int) -> Tensors:
    return [("weight", (outputs, inputs)), ("bias", (outputs,))]


def norm(channels: int) -> Tensors:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return [*((leaf, (channels,)) for leaf in leaves), (COUNTER, ())]


def divisible(channels: float) -> int:
    """Round to the nearest multiple of 8, and up if that loses more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _features(variant: str, halved: int = 1) -> list[Tensors]:
    """Return torchvision's `features`, the channels of the last three blocks divided."""
    nothing: Tensors = []
    lines = TORCHVISION_BLOCKS[variant].split(",")

    def conv_norm(inputs: int, outputs: int, kernel: int = 1) -> Tensors:
        return sequential(conv(inputs, outputs, kernel), norm(outputs), nothing)

    features, inputs = [conv_norm(3, 16, 3)], 16
    for index, line in enumerate(lines):
        *sizes, se = line.split()
        kernel, expand, outputs = map(int, sizes)
        expand //= halved if index > len(lines) - 3 else 1
        outputs //= halved if index > len(lines) - 4 else 1
        layers = [conv_norm(inputs, expand)] if expand != inputs else []
        layers.append(conv_norm(1, expand, kernel))
        if se == "SE":
            narrow = divisible(expand // 4)
            squeeze = conv(expand, narrow, bias=True)
            layers.append(named(fc1=squeeze, fc2=conv(narrow, expand, bias=True)))
        layers.append(conv_norm(expand, outputs))
        features.append(named(block=sequential(*layers)))
        inputs = outputs
    return [*features, conv_norm(inputs, TORCHVISION_TAIL[variant][0] // halved)]


def torchvision(variant: str, classes: int = 1000) -> Tensors:
    nothing: Tensors = []
    last, hidden = TORCHVISION_TAIL[variant]
    classifier = sequential(linear(last, hidden), nothing, nothing, linear(hidden, classes))
    return named(features=sequential(*_features(variant)), classifier=classifier)


def ssdlite(variant: str, classes: int = 91) -> Tensors:
    """Nest the modules of `ssdlite320_mobilenet_v3_large` as its `__init__`s do."""
    nothing: Tensors = []

    def conv_norm(inputs: int, outputs: int, kernel: int = 1) -> Tensors:
        return sequential(conv(inputs, outputs, kernel), norm(outputs), nothing)

    def extra(inputs: int, outputs: int) -> Tensors:
        half = outputs // 2
        return sequential(conv_norm(inputs, half), conv_norm(1, half, 3), conv_norm(half, outputs))

    def head(channels: list[int], values: int) -> Tensors:
        blocks = [
            sequential(conv_norm(1, wide, 3), conv(wide, 6 * values, bias=True))
            for wide in channels
        ]
        return named(module_list=sequential(*blocks))

    features = _features(variant, halved=2)
    cut = len(features) - 4
    block = [(n.removeprefix("block."), shape) for n, shape in features[cut]]
    expansion = [(n.removeprefix("0."), shape) for n, shape in block if n.startswith("0.")]
    rest = [(n, shape) for n, shape in block if not n.startswith("0.")]
    backbone = named(
        features=sequential(
            sequential(*features[:cut], expansion), sequential(rest, *features[cut + 1 :])
        ),
        extra=sequential(
            extra(TORCHVISION_TAIL[variant][0] // 2, 512),
            extra(512, 256),
            extra(256, 256),
            extra(256, 128),
        ),
    )
    expanded = {"large": 672, "small": 288}[variant]
    channels = [expanded, TORCHVISION_TAIL[variant][0] // 2, 512, 256, 256, 128]
    heads = named(classification_head=head(channels, classes), regression_head=head(channels, 4))
    return named(backbone=backbone, head=heads)


def timm(variant: str, classes: int = 1000) -> Tensors:
    inputs, stages = 16, []
    for line in TIMM_STAGES[variant].split("\n")[1:-1]:
        stage = []
        for definition in line.split():
            kind, *options = definition.split("_")
            values = {
                o.rstrip("0123456789."): o.lstrip("abcdefghijklmnopqrstuvwxyz") for o in options
            }
            for _ in range(int(values["r"])):
                block, inputs = _timm_block(kind, inputs, values)
                stage.append(block)
        stages.append(sequential(*stage))
    hidden = {"large": 1280, "small": 1024}[variant]
    return named(
        conv_stem=conv(3, 16, 3),
        bn1=norm(16),
        blocks=sequential(*stages),
        conv_head=conv(inputs, hidden, bias=True),
        classifier=linear(hidden, classes),
    )


def _timm_block(kind: str, inputs: int, values: dict[str, str]) -> tuple[Tensors, int]:
    outputs, kernel = int(values["c"]), int(values["k"])
    if kind == "cn":
        return named(conv=conv(inputs, outputs, kernel), bn1=norm(outputs)), outputs
    middle = divisible(inputs * float(values["e"]))
    narrow = divisible(middle * 0.25)
    se: Tensors = []
    if "se" in values:
        reduce = conv(middle, narrow, bias=True)
        se = named(conv_reduce=reduce, conv_expand=conv(narrow, middle, bias=True))
    depthwise = conv(1, middle, kernel)
    project = conv(middle, outputs)
    if kind == "ds":
        block = named(
            conv_dw=depthwise, bn1=norm(middle), se=se, conv_pw=project, bn2=norm(outputs)
        )
        return block, outputs
    block = named(
        conv_pw=conv(inputs, middle),
        bn1=norm(middle),
        conv_dw=depthwise,
        bn2=norm(middle),
        se=se,
        conv_pwl=project,
        bn3=norm(outputs),
    )
    return block, outputs


# Rows of expansion, output channels, blocks, kernel, and SE.
CHAIN_STAGES = {
    "mobilenet_v2": "1 16 1 3, 6 24 2 3, 6 32 3 3, 6 64 4 3, 6 96 3 3, 6 160 3 3, 6 320 1 3",
    "mnasnet_a1": "1 16 1 3, 6 24 2 3, 3 40 3 5 SE, 6 80 4 3, 6 112 2 3 SE, 6 160 3 5 SE, "
    "6 320 1 3",
    "mnasnet_b1": "1 16 1 3, 3 24 3 3, 3 40 3 5, 6 80 3 5, 6 96 2 3, 6 192 4 5, 6 320 1 3",
}
_LAST = 1280


def _chain(network: str, width: float) -> list[list[tuple[int, int, int, int, int]]]:
    """Return the blocks of each stage: input, expansion, output, kernel, middle of SE."""
    inputs, stages = divisible(32 * width), []
    for line in CHAIN_STAGES[network].split(","):
        ratio, outputs, count, kernel, *se = line.split()
        out, stage = divisible(int(outputs) * width), []
        for _ in range(int(count)):
            middle = int(inputs * 0.25) if se else 0
            stage.append((inputs, inputs * int(ratio), out, int(kernel), middle))
            inputs = out
        stages.append(stage)
    return stages


def torchvision_v2(network: str, width: float, classes: int) -> Tensors:
    """Nest the modules of torchvision's `MobileNetV2`."""
    nothing: Tensors = []

    def conv_norm(inputs: int, outputs: int, kernel: int = 1) -> Tensors:
        return sequential(conv(inputs, outputs, kernel), norm(outputs), nothing)

    stages = _chain(network, width)
    features = [conv_norm(3, stages[0][0][0], 3)]
    for inputs, expand, out, kernel, _ in (block for stage in stages for block in stage):
        layers = [conv_norm(inputs, expand)] if expand != inputs else []
        layers += [conv_norm(1, expand, kernel), conv(expand, out), norm(out)]
        features.append(named(conv=sequential(*layers)))
    features.append(conv_norm(stages[-1][-1][2], _LAST))
    classifier = sequential(nothing, linear(_LAST, classes))
    return named(features=sequential(*features), classifier=classifier)


def torchvision_mnasnet(network: str, width: float, classes: int) -> Tensors:
    """Nest the modules of torchvision's `MNASNet`."""
    nothing: Tensors = []

    def parts(inputs: int, expand: int, out: int, kernel: int) -> list[Tensors]:
        expansion = [conv(inputs, expand), norm(expand), nothing]
        return [
            *(expansion if expand != inputs else []),
            *(conv(1, expand, kernel), norm(expand), nothing, conv(expand, out), norm(out)),
        ]

    first, *stages = _chain(network, width)
    stem = first[0][0]
    layers = [conv(3, stem, 3), norm(stem), nothing, *parts(*first[0][:4])]
    for stage in stages:
        layers.append(sequential(*(named(layers=sequential(*parts(*b[:4]))) for b in stage)))
    layers += [conv(stages[-1][-1][2], _LAST), norm(_LAST), nothing]
    classifier = sequential(nothing, linear(_LAST, classes))
    return named(layers=sequential(*layers), classifier=classifier)


def timm_chain(network: str, width: float, classes: int) -> Tensors:
    """Nest the modules of timm's `mobilenetv2_100`, `semnasnet_100` and `mnasnet_100`."""
    stages = _chain(network, width)
    stem = stages[0][0][0]

    def block(inputs: int, expand: int, out: int, kernel: int, middle: int) -> Tensors:
        se: Tensors = []
        if middle:
            reduce = conv(expand, middle, bias=True)
            se = named(conv_reduce=reduce, conv_expand=conv(middle, expand, bias=True))
        if expand == inputs:
            depthwise = named(conv_dw=conv(1, expand, kernel), bn1=norm(expand), se=se)
            return depthwise + named(conv_pw=conv(expand, out), bn2=norm(out))
        expansion = named(conv_pw=conv(inputs, expand), bn1=norm(expand))
        depthwise = named(conv_dw=conv(1, expand, kernel), bn2=norm(expand), se=se)
        return expansion + depthwise + named(conv_pwl=conv(expand, out), bn3=norm(out))

    return named(
        conv_stem=conv(3, stem, 3),
        bn1=norm(stem),
        blocks=sequential(*(sequential(*(block(*b) for b in stage)) for stage in stages)),
        conv_head=conv(stages[-1][-1][2], _LAST),
        bn2=norm(_LAST),
        classifier=linear(_LAST, classes),
    )


def drawn(tensors: Tensors) -> dict[str, np.ndarray]:
    """Fill each tensor by its name alone, as a network that was trained might have it."""
    filled: dict[str, np.ndarray] = {}
    for name, shape in tensors:
        rng = np.random.default_rng(crc32(name.encode()))
        leaf = name.rpartition(".")[2]
        if leaf == COUNTER:
            filled[name] = np.zeros(shape, np.int64)
        elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
            filled[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            filled[name] = rng.normal(0, 0.2, shape).astype(np.float32)
        else:
            fan_in = np.prod(shape[1:])
            filled[name] = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    return filled


def numbered(tensors: Tensors) -> dict[str, np.ndarray]:
    """Fill the k-th tensor that is no counter with k + 0.5."""
    weights = {name: shape for name, shape in tensors if not name.endswith(COUNTER)}
    filled = {
        name: np.full(shape, k + 0.5, np.float32)
        for k, (name, shape) in enumerate(weights.items())
    }
    return {name: filled.get(name, np.zeros(shape, np.int64)) for name, shape in tensors}


# A .pt file, instruction by instruction.

HEAD = b"\x80\x02"
NEW_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def numbers(values: Iterable[int]) -> bytes:
    """Push a tuple of integers."""
    return (
        b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"
    )


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def tensor(
    key: str,
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    storage: str = "FloatStorage",
) -> bytes:
    """Push a tensor, as torch.save does."""
    where = text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text(key) + text("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + where
        + number(count)
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89"
        + NEW_DICT
        + b"tR"
    )


def program(**values: bytes) -> bytes:
    """Return a whole pickle: a dict of the names and of what is pushed for them."""
    items = b"".join(text(name.replace("__", ".")) + value for name, value in values.items())
    return HEAD + NEW_DICT + b"(" + items + b"u."


def write_torch(
    path: Path, pickled: bytes, storages: dict[str, bytes], byteorder: str = "little"
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def save_torch(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write a state dict of fp32 and int64 tensors, as torch.save does."""
    kinds = {"float32": "FloatStorage", "int64": "LongStorage"}
    pushed = {}
    for index, (name, array) in enumerate(tensors.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        pushed[name] = tensor(
            str(index), array.size, array.shape, strides, storage=kinds[array.dtype.name]
        )
    storages = {str(index): array.tobytes() for index, array in enumerate(tensors.values())}
    return write_torch(path, program(**pushed), storages)
