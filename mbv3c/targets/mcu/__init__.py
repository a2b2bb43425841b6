"""The wing of microcontrollers: Cortex-M cores, for which a C library is built."""
