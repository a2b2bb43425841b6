"""Choose a kernel for every node of a rewritten graph, by rules that are tried in order."""
