"""What a compiled model takes and gives in the place of its own ends: frames, classes, labels."""
