"""Typed YAML: experiments and cluster profiles."""

from hpcjobs.config.cluster import Cluster
from hpcjobs.config.document import Document, convert, dump, load, parse_scalar, read_yaml, to_builtins
from hpcjobs.config.experiment import Experiment

__all__ = ["Cluster", "Document", "Experiment", "convert", "dump", "load", "parse_scalar", "read_yaml", "to_builtins"]
