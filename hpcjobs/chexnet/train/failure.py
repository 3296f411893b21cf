"""How a rank gives up: with one line on stderr and one JSON file in the attempt folder, and without hanging peers."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hpcjobs.base import contract
from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import write_json
from hpcjobs.nodes.launched import launched_rank


class TrainError(HpcjobsError):
    """A reason to give up, with a `code` of contract.ErrorCode. It is reported without a traceback."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def report(attempt: Path, code: str, message: str, nodes: Sequence[str] = ()) -> None:
    """Write `abort-rNNN.json`, then print the line that contract.ErrorCode describes.

    `nodes` are the hosts that caused it, if that is known.
    """
    rank = launched_rank()
    message = " ".join(message.split())
    value = {
        **{"code": code, "message": message, "nodes": list(nodes)},
        **{"rank": rank, "host": socket.gethostname(), "time": time.time()},
    }
    try:
        write_json(attempt / contract.abort_json(rank), value)
    except OSError as error:
        message += f" (and {contract.abort_json(rank)} cannot be written: {error})"
    print(f"{contract.ERROR_PREFIX} {code}: {message}", file=sys.stderr, flush=True)


def leave() -> NoReturn:
    """Exit at once with code 1, so that mpirun and `srun --kill-on-bad-exit` end the other ranks.

    A normal exit would wait in MPI_Finalize for ranks that wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def leave_interrupted(rank: int) -> NoReturn:
    """Exit after an agreed stop, so that the job's exit code is contract.EXIT_INTERRUPTED. Call it after hvd.shutdown.

    Only rank 0 exits with that code, and last: a launcher ends the other ranks at the first code that is not 0.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if rank:
        os._exit(0)
    time.sleep(1.0)
    os._exit(contract.EXIT_INTERRUPTED)
