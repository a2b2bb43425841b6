"""Weights of torchvision's and timm's MobileNetV2 and MnasNet give the outputs they give there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import completed
from mbv3c.parity.reference import run, session
from tests.graphs.weights.state_dicts import (
    Tensors,
    drawn,
    timm_chain,
    torchvision_mnasnet,
    torchvision_v2,
)

WIDTH, SIDE, CLASSES = 0.35, 64, 6

# Logits of the libraries' own modules with these weights on this image, recorded once with
# torchvision 0.29.1 and timm 1.0.31.
RECORDED = {
    ("torchvision MobileNetV2", "mobilenet_v2"): [
        -0.702423,
        0.043714,
        2.075821,
        -1.169672,
        -0.419746,
        -3.282656,
    ],
    ("torchvision MNASNet", "mnasnet_b1"): [
        -357.408691,
        -81.38485,
        -1043.055908,
        -981.508911,
        851.364136,
        -1057.01709,
    ],
    ("timm", "mobilenet_v2"): [1.716864, -1.480114, -4.192243, 2.788713, 3.29638, -2.450358],
    ("timm", "mnasnet_a1"): [
        577.422607,
        288.702209,
        197.607025,
        978.625183,
        537.046692,
        -284.37912,
    ],
    ("timm", "mnasnet_b1"): [
        67.898926,
        13424.894531,
        17756.111328,
        23055.367188,
        -1119.0354,
        -11947.681641,
    ],
}
NAMES: dict[str, Callable[[str, float, int], Tensors]] = {
    "torchvision MobileNetV2": torchvision_v2,
    "torchvision MNASNet": torchvision_mnasnet,
    "timm": timm_chain,
}


@pytest.mark.parametrize(("library", "network"), RECORDED)
def test_outputs_are_those_of_the_library(tmp_path: Path, library: str, network: str) -> None:
    weights = drawn(NAMES[library](network, WIDTH, CLASSES))
    save_file(weights, tmp_path / "w.safetensors")
    given = {"network": network, "width": WIDTH, "resolution": SIDE, "classes": CLASSES}
    model = build_model(completed(given), tmp_path / "w.safetensors")
    image = np.random.default_rng(1).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    logits = run(session(model), image)[0][0]
    wanted = np.array(RECORDED[library, network])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=5e-5 * np.abs(wanted).max())
