"""Time libraries and other runtimes, beside each other."""
