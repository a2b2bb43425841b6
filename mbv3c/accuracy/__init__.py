"""Measure the accuracy of a bundle on images, beside onnxruntime's."""
