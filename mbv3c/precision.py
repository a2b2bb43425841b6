"""The precisions in which a network can compute."""

# The type in which the kernels compute, by the name of the precision.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
