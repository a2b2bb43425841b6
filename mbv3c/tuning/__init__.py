"""Search for better kernels by measuring them, and remember what was found."""
