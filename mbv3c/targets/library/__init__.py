"""Libraries of kernels: what the backends of CPUs and GPUs share."""
