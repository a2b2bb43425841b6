"""What calls a network's kernels from within its library."""
