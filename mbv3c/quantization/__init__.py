"""Post-training quantization: calibrate, insert QDQ, say what it costs and where."""
