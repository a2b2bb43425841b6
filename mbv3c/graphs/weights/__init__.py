"""Read and write the weights of built models."""
