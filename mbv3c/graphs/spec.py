"""What `build` is asked for: the network, its options, and the head on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mbv3c.errors import UsageError
from mbv3c.graphs.architecture import Architecture
from mbv3c.graphs.architecture_file import read_architecture_file
from mbv3c.graphs.networks import CHAINS, VARIANTS, chain, mobilenet_v3
from mbv3c.nearest import among

WidthRule = Literal["torchvision", "tensorflow"]
PaddingRule = Literal["symmetric", "same"]
HeadName = Literal["classify", "lraspp", "raspp", "ssdlite"]
LrasppPool = Literal["global", "paper"]

V3 = "mobilenet_v3"
BATCHNORM_EPSILON = 1e-3
NARROWEST, WIDEST = 0.35, 1.25


@dataclass(frozen=True)
class NetworkTraits:
    """What a network is called, and where it differs from MobileNetV3.

    Attributes:
        title: its name in text.
        widest: the largest width multiplier.
        bn_epsilon: default epsilon of its BatchNormalizations, that of torchvision's weights.
    """

    title: str
    widest: float = 1.4
    bn_epsilon: float = 1e-5


NETWORKS: dict[str, NetworkTraits] = {
    V3: NetworkTraits("MobileNetV3", WIDEST, BATCHNORM_EPSILON),
    "mobilenet_v2": NetworkTraits("MobileNetV2"),
    "mnasnet_a1": NetworkTraits("MnasNet-A1"),
    "mnasnet_b1": NetworkTraits("MnasNet-B1"),
}


@dataclass(frozen=True)
class HeadTraits:
    """What a head needs from the network, and the defaults that torchvision has for it.

    Attributes:
        classes: default number of classes, that of torchvision's pretrained model.
        resolution: default side of the input in pixels.
        resolutions: the sides that are supported.
        mean: mean per RGB channel, subtracted from an image scaled to 0..1.
        std: standard deviation per RGB channel, by which the difference is divided.
        dilated: whether the head stands on output stride 16.
        reduced_tail: whether the head stands on a last stage with half the channels.
        calibration: side of the images on which the statistics of seeded weights are measured.
            It is independent of the resolution, so that the weights are, too; but the smallest
            maps of a detector have neighbouring pixels only at the detector's own resolution.
        detects: whether the head finds objects: it then needs features at stride 32, and its
            first class is the background.
        on_last_block: whether the head stands on the last block, so that MobileNetV2 and MnasNet
            have no last convolution.
    """

    classes: int
    resolution: int
    resolutions: range
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    dilated: bool = False
    reduced_tail: bool = False
    calibration: int = 128
    detects: bool = False
    on_last_block: bool = False


HEAD_TRAITS: dict[str, HeadTraits] = {
    # ImageNet
    "classify": HeadTraits(1000, 224, range(32, 513, 32)),
    # COCO with the labels of Pascal VOC; the paper segments images of up to 2048 pixels
    "lraspp": HeadTraits(21, 224, range(96, 2049, 32), dilated=True),
    "raspp": HeadTraits(21, 224, range(96, 2049, 32), dilated=True, on_last_block=True),
    # COCO with its gaps, background included; trained from nothing, hence the reduced tail
    "ssdlite": HeadTraits(
        classes=91,
        resolution=320,
        resolutions=range(320, 321),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        reduced_tail=True,
        calibration=320,
        detects=True,
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """What `build` is asked for.

    Attributes:
        variant: of MobileNetV3: a key of `VARIANTS`.
        width: multiplier of the channel counts, 0.35 to 1.25, or to 1.4 for other networks.
        width_rule: how `width` applies, see `mbv3c.graphs.networks.mobilenet_v3`.
        padding: `symmetric` (kernel // 2 on every side: torchvision, timm) or `same`
            (TensorFlow's: at stride 2 one row and column more at the end than at the start).
        minimalistic: whether to leave out squeeze-and-excite and use only ReLU and 3x3 kernels.
        dilated: whether the last three blocks keep the resolution, with dilation 2, so that the
            output stride is 16.
        reduced_tail: whether the last three blocks, the last convolution and the hidden layer
            have half the channels.
        bn_epsilon: epsilon of every BatchNormalization outside LR-ASPP's and R-ASPP's heads.
            Checkpoints of torchvision's MobileNetV3 and timm's `tf_*` want 1e-3, timm's other
            `mobilenetv3_*` and torchvision's other networks 1e-5; a state dict does not say which.
        head: `classify`, `lraspp` or `raspp` (segmentation, which implies `dilated`) or `ssdlite`
            (detection, which implies `reduced_tail` in MobileNetV3, as in torchvision, and
            excludes `dilated`).
        lraspp_pool: how LR-ASPP pools its features: `global` (torchvision), or `paper`: windows of
            49x49 at stride (16, 20), which differ from the whole map above 784 pixels.
        resolution: side of the square input in pixels, one that `HEAD_TRAITS` lists for the head.
        classes: number of logits, at least 1; for detection at least 2, the first of which is
            the background.
        batch: images per inference, at least 1.
        seed: seed of the weights.
        network: a key of `NETWORKS`. `variant`, `width_rule`, `minimalistic` and `reduced_tail`
            are MobileNetV3's.
        layers: layers of one's own in the place of a published network; they exclude all options
            that say which layers there are.
        layers_name: what the model with these layers is called.

    Raises:
        UsageError: a value is not among those listed above.
    """

    variant: str = "large"
    width: float = 1.0
    width_rule: str = "torchvision"
    padding: str = "symmetric"
    minimalistic: bool = False
    dilated: bool = False
    reduced_tail: bool = False
    bn_epsilon: float = BATCHNORM_EPSILON
    head: str = "classify"
    lraspp_pool: str = "global"
    resolution: int = 224
    classes: int = 1000
    batch: int = 1
    seed: int = 0
    network: str = V3
    layers: Architecture | None = None
    layers_name: str = ""

    def __post_init__(self) -> None:
        choices = {
            "network": tuple(NETWORKS),
            "variant": tuple(VARIANTS),
            "width_rule": get_args(WidthRule),
            "padding": get_args(PaddingRule),
            "head": get_args(HeadName),
            "lraspp_pool": get_args(LrasppPool),
        }
        for field, known in choices.items():
            value = getattr(self, field)
            if value not in known:
                option = field.replace("_", "-")
                raise UsageError(f"unknown {option} {value!r}{among(str(value), known)}")
        self._check_layers()
        widest = NETWORKS[self.network].widest
        if not NARROWEST <= self.width <= widest:
            raise UsageError(f"width must be {NARROWEST} to {widest}, got {self.width:g}")
        head = HEAD_TRAITS[self.head]
        sides = head.resolutions
        if self.resolution not in sides:
            several = f"{sides[0]} to {sides[-1]} by {sides.step}"
            raise UsageError(
                f"resolution {self.resolution} is not supported with head {self.head}; choose "
                f"{several if len(sides) > 1 else sides[0]}"
            )
        if self.lraspp_pool != "global" and self.head != "lraspp":
            raise UsageError(f"lraspp-pool belongs to head lraspp, not to {self.head}")
        if head.detects and self.dilated:
            raise UsageError(
                f"dilated does not go with head {self.head}, which needs features at stride 32"
            )
        if not 0 < self.bn_epsilon < 1:
            raise UsageError(f"bn-epsilon must lie between 0 and 1, got {self.bn_epsilon:g}")
        for field in ("classes", "batch"):
            if getattr(self, field) < 1:
                raise UsageError(f"{field} must be at least 1, got {getattr(self, field)}")
        if head.detects and self.classes < 2:
            raise UsageError(
                f"head {self.head} needs at least 2 classes: the first one is the background"
            )
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, got {self.seed}")

    def _check_layers(self) -> None:
        """Refuse options that say which layers there are where these are others."""
        of_v3 = ("variant", "width_rule", "minimalistic", "reduced_tail")
        if self.layers is not None:
            of_others = (*of_v3, "network", "width", "dilated")
            said, why = self._given(of_others), "the architecture says all layers"
        elif self.network != V3:
            said, why = self._given(of_v3), f"{self.network} has no such option"
        else:
            return
        if said:
            raise UsageError(f"leave {', '.join(said)} out: {why}")
        if self.layers is not None:
            self._check_head(self.layers)

    def _given(self, names: tuple[str, ...]) -> list[str]:
        return [
            f"--{name.replace('_', '-')}"
            for name in names
            if getattr(self, name) != type(self).__dataclass_fields__[name].default
        ]

    def _check_head(self, layers: Architecture) -> None:
        """Refuse layers on which a head finds no features."""
        wanted = {"lraspp": (8, 16), "raspp": (16,), "ssdlite": (16, 32)}.get(self.head, ())
        strides = layers.strides()
        if wanted and strides[-1:] != wanted[-1:]:
            raise UsageError(
                f"head {self.head} stands on blocks that end at stride {wanted[-1]}; those of "
                f"this architecture end at {strides[-1]}"
            )
        missing = [stride for stride in wanted if stride not in strides]
        if missing:
            raise UsageError(f"head {self.head} needs a block at stride {missing[0]}")

    @property
    def name(self) -> str:
        """Name of the model in files and bundles, e.g. `mobilenet_v3_large_0.75`."""
        if self.layers is not None:
            parts = [self.layers_name or "network"]
        else:
            parts = [self.network, *([self.variant] if self.network == V3 else [])]
        parts += [f"{self.width:g}"] if self.width != 1.0 else []
        parts += [self.head] if self.head != "classify" else []
        parts += [f"{self.lraspp_pool}_pool"] if self.lraspp_pool != "global" else []
        flags = ("minimalistic", "dilated", "reduced_tail")
        return "_".join([*parts, *(flag for flag in flags if getattr(self, flag))])

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor, NCHW."""
        return (self.batch, 3, self.resolution, self.resolution)


def completed(given: Mapping[str, Any]) -> ModelSpec:
    """Return the spec of some fields, the others as network and head have them.

    Args:
        given: fields of `ModelSpec`, and `architecture`: a file with the layers, whose name
            becomes the model's.

    Raises:
        UsageError: the fields do not go together, or the file is no architecture.
    """
    fields = dict(given)
    path = fields.pop("architecture", None)
    if path is not None:
        path = Path(path)
        fields |= {"layers": read_architecture_file(path), "layers_name": path.stem}
    head = HEAD_TRAITS.get(fields.get("head", "classify"))
    if head is not None:
        fields = {"classes": head.classes, "resolution": head.resolution} | fields
    network = NETWORKS.get(fields.get("network", V3))
    if network is not None:
        fields.setdefault("bn_epsilon", network.bn_epsilon)
    return ModelSpec(**fields)


def architecture(spec: ModelSpec) -> Architecture:
    """Return the layers of a spec: the published table with its options applied, or its own."""
    if spec.layers is not None:
        return spec.layers
    head = HEAD_TRAITS[spec.head]
    dilated = spec.dilated or head.dilated
    if spec.network == V3:
        return mobilenet_v3(
            spec.variant,
            spec.width,
            spec.width_rule,
            minimalistic=spec.minimalistic,
            dilated=dilated,
            reduced_tail=spec.reduced_tail or head.reduced_tail,
        )
    layers = chain(CHAINS[spec.network], spec.width, dilated=dilated)
    return replace(layers, last_conv=0) if head.on_last_block else layers


def pads(rule: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the padding before and after one dimension of `size` pixels."""
    reach = (kernel - 1) * dilation
    if rule == "symmetric":
        return reach // 2, reach // 2
    total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2
