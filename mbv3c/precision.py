"""The precisions in which a network can compute, as data."""

from dataclasses import dataclass

from mbv3c.errors import UsageError
from mbv3c.nearest import among


@dataclass(frozen=True)
class Precision:
    """A precision of a whole network.

    Attributes:
        name: the user's name for it.
        dtype: element type in which the kernels compute.
        quantized: whether the graph has pairs of QuantizeLinear and DequantizeLinear.
        may_keep_float: whether single layers may stay in fp32.
        products: element type to which the factors of products of matrices are rounded.
        features: what libraries need of the processor for it, by LLVM's names; other libraries
            may do without, since some devices hide it.
    """

    name: str
    dtype: str
    quantized: bool = False
    may_keep_float: bool = False
    products: str = "float32"
    features: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name


FP32 = Precision("fp32", "float32")
FP16 = Precision("fp16", "float16", may_keep_float=True)
BF16 = Precision("bf16", "float32", products="bfloat16", features=frozenset({"bf16"}))
INT8 = Precision("int8", "int8", quantized=True, may_keep_float=True)

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16, INT8)}


def find_precision(name: str) -> Precision:
    """Look a precision up by the user's name for it.

    Raises:
        UsageError: no precision has that name.
    """
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}{among(name, PRECISIONS)}")
    return PRECISIONS[name]
