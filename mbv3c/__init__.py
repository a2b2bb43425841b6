"""mbv3c: compile MobileNetV3 for edge accelerators and prove that it still computes the same."""

__version__ = "0.1.0"
