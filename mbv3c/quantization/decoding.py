"""Image files as pixels: read upright, in RGB, by few of Pillow's decoders."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mbv3c.door.files import Refused, plain_file
from mbv3c.errors import ImageError, ToolError

if TYPE_CHECKING:
    from PIL import Image

# Of Pillow's other formats some start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Pillow's own limit for an image to be no attack on memory, of which it only warns.
MOST_PIXELS = 89_478_485
_MOST_IMAGE = 1 << 30  # bytes of a file


def decode(path: Path) -> "Image.Image":
    """Read an image upright, as its EXIF data say, in 8-bit RGB.

    Transparency is left out, 16 bits become 8, and of several pictures in a file the first is
    taken.

    Raises:
        ToolError: Pillow is not installed.
        ImageError: the image cannot be read.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ToolError("reading images takes Pillow; install it: pip install pillow") from error
    try:
        if path.is_file() and not path.stat().st_size:
            raise ImageError(path, "it is empty")
        with plain_file(path, _MOST_IMAGE) as file, Image.open(file, formats=FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > MOST_PIXELS:
                raise ImageError(path, f"{pixels:,} pixels are too many, {MOST_PIXELS:,} the most")
            return _rgb(ImageOps.exif_transpose(opened))
    except ImageError:
        raise
    except Refused as error:
        raise ImageError(path, str(error)) from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(path, f"it has no format that is read here ({known})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"more than {MOST_PIXELS:,} pixels are too many") from error
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ImageError(path, f"{type(error).__name__}: {error}") from error


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):  # grey, 16 bits
        levels = np.asarray(image)
        if levels.dtype.itemsize > 2:  # some versions of Pillow read 16 bits as 32
            levels = np.clip(levels, 0, 0xFFFF)
        # Divided by 257 and rounded, exactly and in 16 bits: images may be large.
        levels = np.minimum(levels.astype(np.uint16), 0xFF7F) + 128
        image = Image.fromarray(((levels - (levels >> 8)) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # whose transparency would warn
        image = image.convert("RGBA")
    return image.convert("RGB")
