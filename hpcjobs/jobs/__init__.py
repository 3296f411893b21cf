"""What Slurm gets: a group of runs becomes a batch script."""
