"""The names that torchvision and timm give to the tensors of MobileNetV3 and others, by rule.

Each convention is a function from our names to its own. Our names tell what a block has; the names
in a file tell how timm groups blocks into stages. One block with expansion and SE:

    ours                         torchvision               timm
    features.4.expand.conv       features.4.block.0.0      blocks.2.0.conv_pw
    features.4.expand.bn         features.4.block.0.1      blocks.2.0.bn1
    features.4.depthwise.conv    features.4.block.1.0      blocks.2.0.conv_dw
    features.4.se.reduce         features.4.block.2.fc1    blocks.2.0.se.conv_reduce
    features.4.project.conv      features.4.block.3.0      blocks.2.0.conv_pwl

torchvision's SSDLite cuts the network in two after the expansion of its first block at stride 32,
so that the parts of block 13 of Large lie apart:

    features.12.expand.conv      backbone.features.0.12.block.0.0
    features.13.expand.conv      backbone.features.0.13.0
    features.13.depthwise.conv   backbone.features.1.0.1.0
    features.14.expand.conv      backbone.features.1.1.block.0.0
    extra.0.reduce.conv          backbone.extra.0.0.0
    head.classes.2.predict       head.classification_head.module_list.2.1

MobileNetV2 and MnasNet, whose blocks have no name for each part in torchvision:

    ours                         torchvision V2            torchvision MnasNet
    features.4.expand.conv       features.4.conv.0.0       layers.9.0.layers.0
    features.4.expand.bn         features.4.conv.0.1       layers.9.0.layers.1
    features.4.depthwise.conv    features.4.conv.1.0       layers.9.0.layers.3
    features.4.project.conv      features.4.conv.2         layers.9.0.layers.6
    features.4.project.bn        features.4.conv.3         layers.9.0.layers.7

Sources: torchvision's `models/mobilenetv3.py`, `models/mobilenetv2.py`, `models/mnasnet.py`,
`models/segmentation/lraspp.py` and `models/detection/ssdlite.py`; timm's `models/mobilenetv3.py`,
`efficientnet.py` and `_efficientnet_blocks.py` (`DepthwiseSeparableConv` for blocks without
expansion).
"""

import re
from collections.abc import Callable, Collection

# What `torch.nn.DataParallel` and `torch.compile` put before every name.
_WRAPPERS = ("module.", "_orig_mod.")

_PARTS = ("expand", "depthwise", "se", "project")


def name_map(own: Collection[str], stored: Collection[str]) -> tuple[str, dict[str, str]]:
    """Decide which convention the names `stored` in a file follow, and map our names to it.

    Returns:
        The convention's name, and for each name of `own` the one that the file should hold.
    """
    prefix = _wrapper(stored)
    bare = [name.removeprefix(prefix) for name in stored]
    maps = {name: rule(own, bare) for name, rule in _CONVENTIONS.items()}
    held = set(bare)
    best = max(maps, key=lambda convention: len(held.intersection(maps[convention].values())))
    return best, {mine: prefix + theirs for mine, theirs in maps[best].items()}


def _wrapper(stored: Collection[str]) -> str:
    prefix = ""
    while True:
        wrapper = next(
            (w for w in _WRAPPERS if stored and all(n.startswith(prefix + w) for n in stored)), ""
        )
        if not wrapper:
            return prefix
        prefix += wrapper


def _own(own: Collection[str], stored: Collection[str]) -> dict[str, str]:
    return {name: name for name in own}


def _torchvision(own: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """`features.N.block.J`: J counts the parts that block N has; 0 is the conv, 1 its BN.

    Under LR-ASPP `features` are called `backbone`, under SSDLite `backbone.features` and cut.
    """
    blocks = _blocks(own)
    segments = any(name.startswith("classifier.cbr.") for name in own)
    root, cut = "backbone" if segments else "features", None
    if any(name.startswith("extra.") for name in own):
        root, cut = "backbone.features", max(map(int, blocks), default=2) - 2

    def translated(name: str) -> str:
        feature, part, layer, leaf = _split(name)
        if not feature and name.partition(".")[0] in _TORCHVISION_SSDLITE:
            words = _TORCHVISION_SSDLITE[name.partition(".")[0]]
            return ".".join(words.get(word, word) for word in name.split("."))
        if not feature:
            return _replaced(name, _TORCHVISION_LRASPP)
        if not part:
            return f"{_torchvision_module(root, cut, feature)}.{_CONV_BN[layer]}.{leaf}"
        position = blocks[feature].index(part)
        child = _FC[layer] if part == "se" else _CONV_BN[layer]
        return f"{_torchvision_module(root, cut, feature, position)}.{child}.{leaf}"

    return {name: translated(name) for name in own}


def _torchvision_module(
    root: str, cut: int | None, feature: str, position: int | None = None
) -> str:
    """Name a feature, or the part at a position of a block; `cut` is the block that is cut."""
    inside = "" if position is None else f".block.{position}"
    if cut is None:
        return f"{root}.{feature}{inside}"
    behind = int(feature) - cut
    if behind < 0 or (behind == 0 and position == 0):
        return f"{root}.0.{feature}{inside if behind else ''}"
    # The slice of a Sequential keeps its numbers.
    return f"{root}.1.{behind}{inside}" if behind else f"{root}.1.0.{position}"


def _torchvision_v2(own: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """`features.N.conv.J`: J counts the convolutions; the last one's BatchNormalization, too."""
    blocks = _blocks(own)

    def translated(name: str) -> str:
        feature, part, layer, leaf = _split(name)
        if not feature:
            return name
        if not part:
            return f"features.{feature}.{_CONV_BN[layer]}.{leaf}"
        position = blocks[feature].index(part)
        if part != "project":
            return f"features.{feature}.conv.{position}.{_CONV_BN.get(layer, layer)}.{leaf}"
        return f"features.{feature}.conv.{position + (layer == 'bn')}.{leaf}"

    return {name: translated(name) for name in own}


def _torchvision_mnasnet(own: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """`layers.S.B.layers.J`: stage, place in it, and layer, activations counted."""
    features = _features(own)
    places = _places(stored, len(features) - 3, "layers", first=8)
    place = dict(zip(map(str, features[2:-1]), places, strict=False))
    ends = {str(features[0]): 0, str(features[-1]): 14} if features else {}

    def translated(name: str) -> str:
        feature, part, layer, leaf = _split(name)
        if not feature:
            return name
        if feature in ends and not part:
            return f"layers.{ends[feature] + (layer == 'bn')}.{leaf}"
        # The first block has no expansion, and lies open behind the stem.
        where = f"{place[feature]}.layers" if feature in place else "layers"
        return f"{where}.{_MNASNET_LAYERS.get(part, 0) + (layer == 'bn')}.{leaf}"

    return {name: translated(name) for name in own}


def _timm(own: Collection[str], stored: Collection[str]) -> dict[str, str]:
    """`blocks.S.B`: stage and place in the stage; stem, head and classifier stand outside."""
    blocks = _blocks(own)
    features = _features(own)
    # Of MobileNetV3 the last convolution is a block, in a stage of its own; of others, which have
    # no hidden layer, it stands behind the blocks with a name of its own.
    apart = "classifier.1.weight" in own
    inside = features[1:-1] if apart else features[1:]  # the stem is no block
    places = _places(stored, len(inside), "blocks")
    place = {str(feature): where for feature, where in zip(inside, places, strict=True)}

    def translated(name: str) -> str:
        feature, part, layer, leaf = _split(name)
        if not feature:
            return _replaced(name, _TIMM_TAIL)
        if feature not in place:
            names = _TIMM_STEM if int(feature) == features[0] else _TIMM_LAST
            return f"{names[layer]}.{leaf}"
        where = place[feature]
        if not part:
            return f"{where}.{_TIMM_CONV_BN[layer]}.{leaf}"
        if part == "se":
            return f"{where}.se.conv_{layer}.{leaf}"
        convolutions = [p for p in blocks[feature] if p != "se"]
        if layer == "bn":
            return f"{where}.bn{convolutions.index(part) + 1}.{leaf}"
        return f"{where}.{_TIMM_CONVS[len(convolutions)][convolutions.index(part)]}.{leaf}"

    return {name: translated(name) for name in own}


def _features(own: Collection[str]) -> list[int]:
    """Return the numbers of stem, blocks and last convolution."""
    return sorted({int(feature) for feature in (_split(name)[0] for name in own) if feature})


def _places(stored: Collection[str], count: int, root: str, first: int = 0) -> list[str]:
    """Return `root.S.B` for `count` blocks in order, gaps in the file's numbering filled."""
    lengths: dict[int, int] = {}
    for name in stored:
        match = re.match(rf"{root}\.(\d{{1,3}})\.(\d{{1,3}})\.", name)
        if match:
            stage, index = int(match[1]), int(match[2])
            lengths[stage] = max(lengths.get(stage, 0), index + 1)
    beyond = max(lengths, default=first - 1) + 1
    places = [
        f"{root}.{stage}.{index}"
        for stage in range(first, beyond)
        for index in range(lengths.get(stage, 1))
    ]
    places += [f"{root}.{beyond}.{index}" for index in range(count - len(places))]
    return places[: max(count, 0)]


def _replaced(name: str, modules: dict[str, str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{modules[module]}.{leaf}" if module in modules else name


def _blocks(own: Collection[str]) -> dict[str, list[str]]:
    """Return the parts that each block has, in order."""
    present = {_split(name)[:2] for name in own}
    return {
        feature: [p for p in _PARTS if (feature, p) in present]
        for feature, part in present
        if part
    }


def _split(name: str) -> tuple[str, str, str, str]:
    """Split our name into feature, part, layer and leaf; all empty outside of the features.

    `features.4.expand.bn.bias` gives 4, expand, bn, bias; the stem and the last convolution,
    `features.0.conv.weight`, have no part.
    """
    match = re.fullmatch(
        r"features\.(\d+)\."
        r"(?:(?:(expand|depthwise|project)\.)?(conv|bn)|(se)\.(reduce|expand))\.(\w+)",
        name,
    )
    if match is None:
        return "", "", "", ""
    feature, part, layer, se, se_layer, leaf = match.groups()
    return feature, part or se or "", layer or se_layer, leaf


_CONV_BN = {"conv": "0", "bn": "1"}
_FC = {"reduce": "fc1", "expand": "fc2"}
_TORCHVISION_LRASPP = {
    "classifier.cbr.conv": "classifier.cbr.0",
    "classifier.cbr.bn": "classifier.cbr.1",
    "classifier.scale": "classifier.scale.1",
    "classifier.low": "classifier.low_classifier",
    "classifier.high": "classifier.high_classifier",
}
_TORCHVISION_SSDLITE = {
    "extra": {
        "extra": "backbone.extra",
        "reduce": "0",
        "depthwise": "1",
        "expand": "2",
        **_CONV_BN,
    },
    "head": {
        "classes": "classification_head.module_list",
        "boxes": "regression_head.module_list",
        "depthwise": "0",
        "predict": "1",
        **_CONV_BN,
    },
}
_TIMM_CONV_BN = {"conv": "conv", "bn": "bn1"}
_TIMM_STEM = {"conv": "conv_stem", "bn": "bn1"}
_TIMM_LAST = {"conv": "conv_head", "bn": "bn2"}
_TIMM_TAIL = {
    "classifier.0": "conv_head",
    "classifier.1": "classifier",
    "classifier.3": "classifier",
}
_MNASNET_LAYERS = {"expand": 0, "depthwise": 3, "project": 6}
# By how many convolutions the block has: with an expansion three, without two.
_TIMM_CONVS = {2: ("conv_dw", "conv_pw"), 3: ("conv_pw", "conv_dw", "conv_pwl")}

_Rule = Callable[[Collection[str], Collection[str]], dict[str, str]]
_CONVENTIONS: dict[str, _Rule] = {
    "mbv3c": _own,
    "torchvision": _torchvision,
    "timm": _timm,
    "torchvision MobileNetV2": _torchvision_v2,
    "torchvision MnasNet": _torchvision_mnasnet,
}
