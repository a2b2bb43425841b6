"""Kernels for GPUs: what a work-item does, and how many of them there are."""
