"""Images become what the network was trained on."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mbv3c.errors import ImageError, ModelError, UsageError
from mbv3c.graphs.builder import build_model
from mbv3c.graphs.spec import ModelSpec
from mbv3c.quantization.images import (
    Overrides,
    Preprocessing,
    described,
    origins,
    preprocessing,
    read_image,
    with_preparing,
    without_warnings,
)
from tests.image_files import BREAKS
from tests.quantization import quantizing

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


# ---- what the user says instead ----


def test_overrides_come_before_the_metadata(small: onnx.ModelProto) -> None:
    overrides = Overrides((0.5,) * 3, (0.25,) * 3, 232, 200)
    found = preprocessing(small, (1, 3, 224, 224), overrides)
    assert found == replace(IMAGENET, mean=(0.5,) * 3, std=(0.25,) * 3, shown=200 / 232)
    said = origins(small, overrides)
    assert said == {
        "mean": "--mean",
        "std": "--std",
        "shown": "--resize, --crop",
        "layout": "the input's shape",
        "scale": "as nothing else is said",
        "channels": "as nothing else is said",
    }
    assert set(origins(small, Overrides()).values()) == {
        "the model's metadata mbv3c.mean",
        "the model's metadata mbv3c.std",
        "the model's metadata mbv3c.head",
        "the input's shape",
        "as nothing else is said",
    }


def test_a_scale_takes_the_place_of_the_models_own_mean_and_std(small: onnx.ModelProto) -> None:
    shape = (1, 3, 224, 224)
    found = preprocessing(small, shape, Overrides(scale=1.0, bgr=True))
    assert (found.mean, found.std, found.scale) == ((0.0,) * 3, (1.0,) * 3, 1.0)
    assert (found.to_json()["scale"], found.to_json()["channels"]) == (1.0, "BGR")
    said = origins(small, Overrides(scale=1.0, bgr=True))
    assert (said["scale"], said["channels"]) == ("--scale", "--bgr")
    assert said["mean"] == said["std"] == "none, as --scale is given"
    halves = (127.5,) * 3
    found = preprocessing(small, shape, Overrides(halves, halves, scale=1.0))
    assert (found.mean, found.std, found.bgr) == (halves, halves, False)


def test_pixels_are_scaled_before_the_mean_and_the_std(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 128, 0)).save(tmp_path / "x.png")
    plain = Preprocessing(8, 8, False, (0.0,) * 3, (1.0,) * 3, None, scale=1.0)
    x = read_image(tmp_path / "x.png", plain)
    assert (x == np.array([255, 128, 0], np.float32)[:, None, None]).all()
    halves = replace(plain, mean=(127.5,) * 3, std=(127.5,) * 3)
    x = read_image(tmp_path / "x.png", halves)
    assert (x[[0, 2], 0, 0] == [1, -1]).all()


@pytest.mark.parametrize("channels_last", [False, True])
def test_bgr_turns_the_channels_round_after_mean_and_std(
    tmp_path: Path, *, channels_last: bool
) -> None:
    """Mean and std stay those of red, green and blue."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    usual = replace(IMAGENET, height=4, width=4, shown=None, channels_last=channels_last)
    rgb = read_image(tmp_path / "x.png", usual)
    bgr = read_image(tmp_path / "x.png", replace(usual, bgr=True))
    axis = 2 if channels_last else 0
    assert (bgr == np.flip(rgb, axis)).all()
    assert bgr.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("resize", "crop", "shown"),
    [(256, None, 0.875), (None, 224, 0.875), (256, 128, 0.5), ("stretch", None, None)],
)
def test_resize_and_crop(resize: int | str | None, crop: int | None, shown: float | None) -> None:
    overrides = Overrides(resize=resize, crop=crop)
    assert preprocessing(model("1, 3, 224, 224"), (1, 3, 224, 224), overrides).shown == shown


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(resize=100),  # smaller than the input, and nothing says to crop less
        Overrides(resize=256, crop=300),
        Overrides(crop=0),
        Overrides(resize="stretch", crop=224),
        Overrides(layout="NHWC"),
    ],
)
def test_impossible_overrides_are_refused(overrides: Overrides) -> None:
    with pytest.raises(UsageError, match=r"--resize|--crop|--layout"):
        preprocessing(model("1, 3, 224, 224"), (1, 3, 224, 224), overrides)


def test_a_layout_that_the_shape_leaves_open() -> None:
    shape = (1, 3, 8, 3)
    first = preprocessing(model("1, 3, 8, 3"), shape)
    last = preprocessing(model("1, 3, 8, 3"), shape, Overrides(layout="NHWC"))
    assert (first.height, first.width, first.channels_last) == (8, 3, False)
    assert (last.height, last.width, last.channels_last) == (3, 8, True)


@pytest.mark.parametrize(
    "said",
    [
        Overrides((0.5,) * 3, (0.25,) * 3, 232, 200),
        Overrides(resize="stretch"),
        Overrides(scale=1.0, bgr=True),
        Overrides(layout="NHWC", std=(2.0,) * 3),
    ],
)
def test_what_is_said_becomes_part_of_the_model(said: Overrides) -> None:
    shape = (1, 3, 224, 3)
    given = model("1, 3, 224, 3", mean="[0.1, 0.2, 0.3]")
    stored = with_preparing(given, said)
    assert preprocessing(stored, shape) == preprocessing(given, shape, said)
    assert with_preparing(given, Overrides()) is given
    # What was not said is open, so that a later word counts.
    later = Overrides(crop=1)
    assert preprocessing(stored, shape, later).shown == preprocessing(given, shape, later).shown
    about = described(stored)
    assert about is not None
    origin = (
        "scale" if said.scale else "mean" if said.mean else "layout" if said.layout else "shown"
    )
    assert about["from"][origin] == f"the model's metadata mbv3c.{origin}"


def test_a_model_without_images_has_no_preprocessing() -> None:
    assert described(model("1, 10")) is None
    two = "g (float[1, 3, 8, 8] x, float[1, 3, 8, 8] z) => (float[1, 3, 8, 8] y) { y = Add(x, z) }"
    assert described(quantizing.graph(two)) is None
    with pytest.raises(UsageError, match="images do not fit"):
        with_preparing(model("1, 10"), Overrides(bgr=True))


# ---- kinds of images ----

WHOLE = replace(IMAGENET, height=40, width=60, mean=(0.0,) * 3, std=(1.0,) * 3, shown=None)


def picture() -> Image.Image:
    """Return 60 x 40 pixels, of which every corner has a colour of its own."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def values(path: Path, prepared: Preprocessing = WHOLE) -> np.ndarray:
    return read_image(path, prepared).transpose(1, 2, 0) * 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    """Write what a camera held otherwise stores: the inverse of what the tag asks for."""
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture() if stored is None else picture().transpose(stored)
    turned.save(tmp_path / "x.png", exif=exif)
    assert np.abs(values(tmp_path / "x.png") - np.asarray(picture())).max() < 1e-4


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    every = replace(WHOLE, height=256, width=256)
    for name, stored in (("x.png", levels), ("x.tif", levels), ("big.tif", levels.astype(">u2"))):
        Image.fromarray(stored).save(tmp_path / name)
        found = values(tmp_path / name, every)
        assert np.abs(found - np.rint(levels / 257)[:, :, None]).max() < 1e-4


def test_cmyk_and_palettes_become_rgb(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (60, 40), (0, 255, 255, 0))
    inks.save(tmp_path / "x.jpg", quality=100)
    assert np.abs(values(tmp_path / "x.jpg") - [255, 0, 0]).max() < 4
    few = picture().quantize(16)
    few.save(tmp_path / "x.png", transparency=bytes(range(16)))
    wanted = np.asarray(few.convert("RGB"))
    assert np.abs(values(tmp_path / "x.png") - wanted).max() < 1e-4


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "gif"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    plain = Image.new("RGB", (60, 40), (200, 100, 50))
    plain.save(tmp_path / f"x.{suffix}")
    assert np.abs(values(tmp_path / f"x.{suffix}") - [200, 100, 50]).max() < 4


# ---- broken ones ----


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("cut.jpg", "truncated"),
        ("cut.png", "truncated"),
        ("empty.jpg", "it is empty"),
        ("text.jpeg", "no format"),
        ("noise.webp", "no format"),
        ("folder.jpg", "it is no plain file"),
        ("pipe.bmp", "it is no plain file"),
        ("bomb.png", "pixels"),
        ("dangling.png", "No such file"),
    ],
)
def test_a_broken_image_says_why(tmp_path: Path, way: str, reason: str) -> None:
    path = tmp_path / f"x{Path(way).suffix}"
    BREAKS[way](path, picture(), np.random.default_rng(0))
    with without_warnings(), pytest.raises(ImageError, match=reason) as error:
        read_image(path, WHOLE)
    assert str(path) not in error.value.reason


def test_an_image_without_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture().save(path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="Permission denied"):
            read_image(path, WHOLE)
    finally:
        os.seteuid(user)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), suffix=st.sampled_from(["jpg", "png", "webp", "bmp", "tif", "gif"]))
def test_a_damaged_image_is_read_or_named(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    """Change some bytes: whatever the decoder then does, nothing but an ImageError comes out."""
    path = tmp_path / f"x.{suffix}"
    picture().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with without_warnings():
        try:
            x = read_image(path, WHOLE)
        except ImageError:
            return
    assert x.shape == (3, 40, 60)
    assert np.isfinite(x).all()
