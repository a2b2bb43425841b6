"""opencl."""
