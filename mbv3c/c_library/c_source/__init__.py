"""A library of a lowered network as C11, for any compiler."""
