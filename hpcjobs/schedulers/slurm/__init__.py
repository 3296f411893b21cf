"""Slurm as a scheduler."""
