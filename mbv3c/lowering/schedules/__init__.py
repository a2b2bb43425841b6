"""The kernels of this family of networks: one module each, with its knobs and their defaults."""
