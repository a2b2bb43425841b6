"""What is asked of the compiler: a device, a precision, and how to get there."""

from dataclasses import dataclass, field

from mbv3c.ends.ends import NO_ENDS, Ends
from mbv3c.graphs.input_shapes import InputShape
from mbv3c.graphs.narrow import Stored
from mbv3c.lowering.plan import NO_CHOICES, Choices
from mbv3c.precision import FP32, Precision
from mbv3c.quantization.calibration import Calibration
from mbv3c.quantization.images import AS_THE_MODEL_SAYS, Overrides
from mbv3c.quantization.options import QuantizeOptions
from mbv3c.target import Target


@dataclass(frozen=True)
class Job:
    """What was asked.

    Attributes:
        target: the device.
        precision: the precision of the whole network.
        keep_float: for fp16, patterns for the names of layers that stay in fp32.
        choices: the knobs of kernels that were measured to be best.
        calibration: the inputs that ranges are taken from; None for random inputs.
        quantizing: how to quantize; None for the usual way.
        options: the backend's own options, in the backend's own type.
        shapes: the shapes of the inputs for which to compile; empty for those that the model has.
        ends: the inputs and outputs that the model is given; the default leaves them.
        preparing: what the model's metadata shall say of its images; the default leaves them.
        dense_weights: how the weights of dense layers are stored, one of
            `mbv3c.graphs.narrow.STORED`; empty for the type of `precision`.
    """

    target: Target
    precision: Precision = FP32
    keep_float: tuple[str, ...] = ()
    choices: Choices = field(default=NO_CHOICES)
    calibration: Calibration | None = None
    quantizing: QuantizeOptions | None = None
    options: object = None
    shapes: tuple[InputShape, ...] = ()
    ends: Ends = NO_ENDS
    preparing: Overrides = AS_THE_MODEL_SAYS
    dense_weights: Stored = ""
