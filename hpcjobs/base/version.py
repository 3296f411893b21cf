"""The version of hpcjobs."""

__version__ = "0.2.0"
