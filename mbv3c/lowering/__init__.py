"""From a rewritten ONNX graph to kernels, their memory and a TVM module."""
