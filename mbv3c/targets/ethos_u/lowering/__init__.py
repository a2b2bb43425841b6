"""A quantized graph to the parts of it that an Ethos-U computes, and those to TOSA."""
