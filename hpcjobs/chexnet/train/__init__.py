"""The trainer: `python -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`, one process per rank.

In hpcjobs.chexnet this package and the shard format import TensorFlow, this package alone Horovod and
mlperf-logging.
"""
