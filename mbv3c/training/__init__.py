"""Training of classifiers: an ONNX graph is interpreted by torch, and its weights written back."""
