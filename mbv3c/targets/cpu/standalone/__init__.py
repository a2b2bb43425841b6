"""Cores with Linux for which TVM has no runtime: C libraries, run in an emulator."""
