"""Times messages between ranks. All ranks of a communicator call each function together."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcjobs.nodes.probe.figures import LEAST_REPETITIONS, Timing

# From 8 B to 256 MiB.
SIZES = (*(2**power for power in range(3, 28, 2)), 2**28)
MOST_REPETITIONS = 50
# How often an idle rank checks whether the others are done, in s.
_LOOK_S = 0.002

# Does one repetition with this many bytes and returns the seconds that it took this rank.
Once = Callable[[int], float]


def rest(world: MPI.Comm) -> None:
    """A barrier that sleeps, so that the ranks that measure have the CPU."""
    arrived = world.Ibarrier()
    while not arrived.Test():
        time.sleep(_LOOK_S)


def ladder(comm: MPI.Comm, once: Once, seconds: float, largest: int) -> list[Timing]:
    """Timings of each size up to `largest` bytes, in about `seconds`, which are shared evenly between the sizes.

    A repetition takes as long as its slowest rank. The smallest size is always measured; the first size of which
    6 repetitions do not fit into the remaining time, and all larger ones, are left out. The same on all ranks.
    """
    sizes = [size for size in SIZES if size <= largest]
    end = time.monotonic() + seconds
    found: list[Timing] = []
    for number, size in enumerate(sizes):
        # Extrapolated from the size before: a single time may be an outlier.
        expected = size / found[-1].size * found[-1].time.value if found else 0.0
        if LEAST_REPETITIONS * expected > comm.bcast(end - time.monotonic()):
            break
        # The first repetition sets up the connection; the minimum of the next two is least disturbed by other work.
        first = min(_slowest(comm, [once(size) for _ in range(3)])[1:])
        left = comm.bcast(end - time.monotonic())
        fit = left / (len(sizes) - number) / max(first, 1e-9)
        repetitions = int(min(max(fit, LEAST_REPETITIONS), MOST_REPETITIONS))
        comm.Barrier()
        found.append(Timing(size, tuple(_slowest(comm, [once(size) for _ in range(repetitions)]))))
    return found


def _slowest(comm: MPI.Comm, seconds: list[float]) -> list[float]:
    everybody = np.empty(len(seconds))
    comm.Allreduce(np.array(seconds), everybody, op=MPI.MAX)
    return [float(each) for each in everybody]


def one_way(comm: MPI.Comm, sender: int) -> Once:
    """A message from rank `sender` of two to the other rank, which answers with a byte: seconds there and back.

    The answer shows that the message has arrived; a send call alone returns as soon as its buffer is free.
    """
    me, other = comm.Get_rank(), 1 - comm.Get_rank()
    token = np.zeros(1, np.uint8)
    buffers = _Buffers()

    def once(size: int) -> float:
        buffer = buffers.of(size)
        start = MPI.Wtime()
        if me == sender:
            comm.Send(buffer, other)
            comm.Recv(token, other)
        else:
            comm.Recv(buffer, other)
            comm.Send(token, other)
        return MPI.Wtime() - start if me == sender else 0.0

    return once


def neighbours(comm: MPI.Comm) -> Once:
    """Each rank sends to the next and receives from the one before, all at once, as sendrecv of nccl-tests."""
    size_, me = comm.Get_size(), comm.Get_rank()
    sent, received = _Buffers(), _Buffers()

    def once(size: int) -> float:
        outgoing, incoming = sent.of(size), received.of(size)
        comm.Barrier()
        start = MPI.Wtime()
        comm.Sendrecv(outgoing, (me + 1) % size_, recvbuf=incoming, source=(me - 1) % size_)
        return MPI.Wtime() - start

    return once


def allreduce(comm: MPI.Comm) -> Once:
    """The sum over all ranks, of float32."""
    sent, received = _Buffers(), _Buffers()

    def once(size: int) -> float:
        outgoing, incoming = sent.of(size).view(np.float32), received.of(size).view(np.float32)
        comm.Barrier()
        start = MPI.Wtime()
        comm.Allreduce(outgoing, incoming, op=MPI.SUM)
        return MPI.Wtime() - start

    return once


class _Buffers:
    """Keeps one buffer of the size in use. It is written to, so that its pages exist before the clock starts."""

    def __init__(self) -> None:
        self._buffer = np.zeros(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        if len(self._buffer) != size:
            self._buffer = np.ones(size, np.uint8)
        return self._buffer
