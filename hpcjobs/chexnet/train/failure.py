"""How a rank gives up: one line on stderr, one JSON file in the attempt folder, no hanging peers."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from hpcjobs.base import contract
from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import write_json
from hpcjobs.nodes.launched import launched_rank


class TrainError(HpcjobsError):
    """A named reason (`code`, of contract.ErrorCode) to give up, told without a traceback."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def report(attempt: Path, code: str, message: str) -> None:
    """Write `abort-rNNN.json` and print the line that contract.ErrorCode promises, in that order."""
    rank = launched_rank()
    message = " ".join(message.split())
    value = {"code": code, "message": message, "rank": rank, "host": socket.gethostname(), "time": time.time()}
    try:
        write_json(attempt / contract.abort_json(rank), value)
    except OSError as error:
        message += f" (and no {contract.abort_json(rank)}: {error})"
    print(f"{contract.ERROR_PREFIX} {code}: {message}", file=sys.stderr, flush=True)


def leave() -> NoReturn:
    """End this rank at once, non-zero, so that mpirun and `srun --kill-on-bad-exit` end the others.

    An orderly exit would wait in MPI_Finalize for ranks that wait for this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def leave_interrupted(rank: int) -> NoReturn:
    """End this rank after an agreed stop, Horovod ended before: the job's exit code is contract.EXIT_INTERRUPTED.

    Rank 0 alone says so, and last: a launcher ends the others at the first code that is not 0.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if rank:
        os._exit(0)
    time.sleep(1.0)
    os._exit(contract.EXIT_INTERRUPTED)
