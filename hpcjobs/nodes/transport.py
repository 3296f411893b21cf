"""Has NCCL log how it connects the GPUs of a rank, and warns of a slow way. `base/nccl_log.py` reads the log.

Not run by us: needs GPUs.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpcjobs.base import contract, nccl_log
from hpcjobs.base.nccl_log import SOCKET, Transport
from hpcjobs.nodes.launched import launched_rank


def ask_nccl(attempt: Path) -> None:
    """Make NCCL log into this rank's file, unless the user has set NCCL_DEBUG. Call it before Horovod starts.

    The subsystems INIT and GRAPH log no single collective, so timed steps write nothing.
    """
    if "NCCL_DEBUG" not in os.environ:
        path = attempt.resolve() / contract.nccl_txt(launched_rank())
        os.environ["NCCL_DEBUG"] = "INFO"
        os.environ["NCCL_DEBUG_SUBSYS"] = "INIT,GRAPH"
        os.environ["NCCL_DEBUG_FILE"] = str(path).replace("%", "%%")  # %h and %p stand for host and process.


def read(attempt: Path) -> Transport | None:
    """What NCCL logged for this rank; None if it wrote nothing, or into another file. Not collective."""
    try:
        text = (attempt / contract.nccl_txt(launched_rank())).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return nccl_log.parse(text)


def has_infiniband(devices: Path = Path("/sys/class/infiniband")) -> bool:
    """Whether this node has an InfiniBand port. RoCE and Amazon's EFA appear in the same folder but do not count."""
    layers = []
    for path in devices.glob("*/ports/*/link_layer"):
        try:
            layers.append(path.read_text().strip())
        except OSError:
            continue
    return "InfiniBand" in layers


def warning(found: Transport | None, infiniband: bool) -> str | None:
    """A line that says what to check if gradients use sockets although a node has InfiniBand; else None."""
    if found is None or SOCKET not in found.transports or not infiniband:
        return None
    over = f" ({', '.join(found.devices)})" if found.devices else ""
    return (
        f"NCCL uses sockets{over} between nodes that have InfiniBand: check NCCL_IB_DISABLE and NCCL_IB_HCA, that the "
        "container has /dev/infiniband and libibverbs, and that a port is active (ibstat)"
    )
