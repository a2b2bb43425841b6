"""ONNX to Relax to scheduled TensorIR."""
