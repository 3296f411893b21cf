"""What a cluster is, and whether it is fit."""
