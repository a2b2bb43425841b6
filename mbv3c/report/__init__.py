"""One page about bundles: what they are, how exact, how fast, how large, and how to repeat it."""
