"""What the kernels of several backends are written with, and the schedule of TVM's kernels."""
