"""Integer kernels for Cortex-M: pairs of int16 by `smlad`, or vectors of 16 bytes by Helium."""
