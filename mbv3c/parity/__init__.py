"""Parity with onnxruntime: the reference, the inputs, the tolerances and the verdict."""
