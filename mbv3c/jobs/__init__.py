"""Jobs: work that is named by all that decides its result, done once, anywhere, by any engine."""
