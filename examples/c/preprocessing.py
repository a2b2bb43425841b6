"""Print, as a header in C, how the model of a bundle wants images: python preprocessing.py BUNDLE.

It needs mbv3c, which wrote the bundle. What the model's metadata leave open is ImageNet's.
"""

import sys
from pathlib import Path

from mbv3c.bundle import read_bundled
from mbv3c.graphs.load import input_shape_of
from mbv3c.quantization.images import preprocessing


def numbers(values: tuple[float, ...]) -> str:
    """Return numbers as C has them in braces."""
    return "{" + ", ".join(f"{value:.9g}" for value in values) + "}"


model = read_bundled(Path(sys.argv[1]) / "model.onnx")
prepared = preprocessing(model, input_shape_of(model))
print(f"""\
/* {prepared} */
#define IMAGE_SCALE {prepared.scale:.9g} /* of the pixels, which are 0 to 255 */
#define IMAGE_MEAN {numbers(prepared.mean)} /* of red, green and blue, to subtract */
#define IMAGE_STD {numbers(prepared.std)} /* and to divide by */
#define IMAGE_BGR {int(prepared.bgr)} /* whether the first channel is blue */
#define IMAGE_CHANNELS_LAST {int(prepared.channels_last)}
#define IMAGE_SHOWN {prepared.shown or 0:.9g} /* share of the middle; 0: all, stretched */""")
