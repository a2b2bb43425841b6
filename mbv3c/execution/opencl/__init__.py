"""Run TVM's OpenCL modules: TVM's wheel has the compiler for them, and no runtime."""
