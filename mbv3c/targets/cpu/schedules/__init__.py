"""Kernels for CPUs: a module for each kind, with its knobs and their defaults."""
