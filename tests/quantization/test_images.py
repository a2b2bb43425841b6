"""Images become what the network was trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import quantizing
from PIL import Image

from mbv3c.errors import ModelError, UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.quantization.images import Preprocessing, preprocessing, read_image

IMAGENET = Preprocessing(
    224, 224, False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), shown=224 / 256
)


def model(shape: str, **metadata: str) -> onnx.ModelProto:
    made = quantizing.graph(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}")
    for key, value in metadata.items():
        made.metadata_props.add(key=f"mbv3c.{key}", value=value)
    return made


def test_a_foreign_model_gets_imagenet() -> None:
    assert preprocessing(model("1, 3, 224, 224"), (1, 3, 224, 224)) == IMAGENET
    last = preprocessing(model("1, 224, 224, 3"), (1, 224, 224, 3))
    assert last == replace(IMAGENET, channels_last=True)


def test_our_own_models_say_what_they_want(small: onnx.ModelProto) -> None:
    assert preprocessing(small, (1, 3, 224, 224)) == IMAGENET
    detector = build_model(ModelSpec("small", head="ssdlite", classes=91, resolution=320))
    found = preprocessing(detector, (1, 3, 320, 320))
    assert (found.mean, found.std, found.shown) == ((0.5,) * 3, (0.5,) * 3, None)


@pytest.mark.parametrize("entry", ["no", "[1, 2]", "[1, 2, null]", "[1, 0, 1]", "[1, 1, NaN]"])
def test_damaged_metadata_are_refused(entry: str) -> None:
    with pytest.raises(ModelError, match=r"mbv3c\.std"):
        preprocessing(model("1, 3, 8, 8", std=entry), (1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 10), (1, 4, 8, 8), (1, 1, 8, 8)])
def test_an_input_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="images do not fit"):
        preprocessing(model(", ".join(map(str, shape))), shape)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_one_colour_is_normalised_per_channel(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (300, 400), (255, 128, 0)).save(tmp_path / name, quality=100)
    x = read_image(tmp_path / name, IMAGENET)
    assert x.shape == (3, 224, 224)
    assert x.dtype == np.float32
    wanted = (np.array([1.0, 128 / 255, 0.0]) - IMAGENET.mean) / IMAGENET.std
    # JPEG rounds colours by up to two of 255 levels; / 0.225 in standard deviations.
    assert np.abs(x - wanted[:, None, None]).max() < (1e-6 if name == "x.png" else 0.04)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (256, 256)).save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png", IMAGENET).shape == (3, 224, 224)


def test_the_middle_is_taken_and_keeps_its_proportions(tmp_path: Path) -> None:
    """Of 512 x 256 pixels the middle 224 x 224 are the input of a classifier, untouched."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    plain = replace(IMAGENET, mean=(0.0,) * 3, std=(1.0,) * 3)
    x = read_image(tmp_path / "x.png", plain)
    middle = pixels[16:240, 144:368].transpose(2, 0, 1) / 255
    assert np.abs(x - middle).max() < 1e-6
    last = read_image(tmp_path / "x.png", replace(plain, channels_last=True))
    assert (last.transpose(2, 0, 1) == x).all()
    whole = read_image(tmp_path / "x.png", replace(plain, shown=None))
    assert np.abs(whole - x).max() > 0.1
