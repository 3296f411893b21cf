"""hpcjobs: scaling studies of distributed training on Slurm."""

__version__ = "0.1.0"
