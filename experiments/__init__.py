"""Experiments and cluster profiles that ship with hpcjobs; installed as hpcjobs.experiments."""
