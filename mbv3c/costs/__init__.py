"""What networks cost on a target, layer by layer: asked for once, and kept."""
