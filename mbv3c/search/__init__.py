"""Find the network for a device: adapt one, search for one, compare many."""
