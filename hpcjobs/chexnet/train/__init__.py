"""The trainer: `python -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`, one process per rank.

TensorFlow, Horovod and mlperf-logging are imported in this package and in the shard format only.
"""
