"""What runs on the nodes beside any training: facts about a node, its GPUs, its network."""
