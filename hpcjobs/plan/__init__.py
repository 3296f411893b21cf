"""Which runs, on how many nodes, at what cost."""
