"""From a quantized graph to the regions that an Ethos-U computes, as TOSA."""
