"""Typed YAML: experiments and cluster profiles."""

from hpcjobs.spec.cluster import Cluster
from hpcjobs.spec.document import Document, convert, dump, load, parse_scalar, read_yaml, to_builtins
from hpcjobs.spec.experiment import Experiment

__all__ = ["Cluster", "Document", "Experiment", "convert", "dump", "load", "parse_scalar", "read_yaml", "to_builtins"]
