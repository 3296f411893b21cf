"""What a run on GPUs records besides its steps: NVML samples, and how NCCL connected the GPUs.

Not run by us: needs GPUs. `telemetry` and `transport`, which do the work, are tested.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.tensorflow import allgather_object
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.base import contract, nccl_log
from hpcjobs.base.contract import LogKey
from hpcjobs.nodes import telemetry, transport
from hpcjobs.nodes.node_facts import Place


def watched(attempt: Path, here: Sequence[Place]) -> AbstractContextManager[None]:
    """While this is open, one rank of each node samples the node's GPUs; `here` are the ranks on this node."""
    if hvd.local_rank() != 0:
        return nullcontext()
    path = attempt / contract.nvml_csv(here[0].host)
    return telemetry.sampled(path, [one.gpu for one in here], [one.pid for one in here])


def log_transport(attempt: Path, log: MLLogger | None) -> None:
    """Log the transport of gradients, and warn of a slow one. Collective."""
    hvd.allreduce(tf.zeros(1), name="transport")  # Makes NCCL create its communicator before any timed step.
    found = allgather_object((transport.read(attempt), transport.has_infiniband()))
    if log is None:
        return
    merged = nccl_log.merge(one for one, _ in found)
    if merged:
        log.event(LogKey.TRANSPORT, dataclasses.asdict(merged))
    if text := transport.warning(merged, any(infiniband for _, infiniband in found)):
        print(f"hpcjobs: warning: {text}", file=sys.stderr, flush=True)
