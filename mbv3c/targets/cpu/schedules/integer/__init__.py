"""Kernels of int8 for CPUs."""
