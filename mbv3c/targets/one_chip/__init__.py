"""A chip with a Cortex-M and an Ethos-U beside it: what both compute of a network, as one."""
