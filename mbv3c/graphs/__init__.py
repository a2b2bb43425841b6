"""MobileNetV3 as data, and the ONNX graphs built from it or read from a user's file."""
