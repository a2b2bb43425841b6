"""A library in C of a lowered network, which needs no runtime."""
