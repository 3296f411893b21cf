"""The version of hpcjobs."""

__version__ = "0.1.0"
