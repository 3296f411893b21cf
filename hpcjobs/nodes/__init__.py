"""What runs on the nodes beside any training: what a node is, its GPUs, its network."""
