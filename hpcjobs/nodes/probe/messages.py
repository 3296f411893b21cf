"""Times messages between ranks. Every function is called by all ranks of its communicator at once."""

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
# How often a rank that has nothing to do looks whether the others are done, in s.
_LOOK_S = 0.002

# Does one repetition of so many bytes; the seconds that it took this rank.
Once = Callable[[int], float]


def rest(world: MPI.Comm) -> None:
    """A barrier that leaves the CPU to those who measure."""
    arrived = world.Ibarrier()
    while not arrived.Test():
        time.sleep(_LOOK_S)


def ladder(comm: MPI.Comm, once: Once, seconds: float, largest: int) -> list[Timing]:
    """Times of each size up to `largest` bytes, in about so many `seconds`: each size gets its part of what is left.

    A repetition takes as long as its slowest rank. Sizes of which not even 6 repetitions fit are left out, but for
    the first one. The same on all ranks.
    """
    sizes = [size for size in SIZES if size <= largest]
    end = time.monotonic() + seconds
    found: list[Timing] = []
    for number, size in enumerate(sizes):
        # By the size before, as a single time may be anything.
        expected = size / found[-1].size * found[-1].time.value if found else 0.0
        if LEAST_REPETITIONS * expected > comm.bcast(end - time.monotonic()):
            break
        # The very first one connects; the least of two is not what somebody else's work made it.
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
    """From rank `sender` of two to the other one, which answers with a byte: seconds there and back.

    The answer shows that all has arrived: what a send call waits for is only its buffer.
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
    """Each rank sends to the next and receives from the one before, all at once: nccl-tests' sendrecv."""
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
    """The buffer of the size in use: touched, so that the kernel has given its pages before the clock starts."""

    def __init__(self) -> None:
        self._buffer = np.zeros(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        if len(self._buffer) != size:
            self._buffer = np.ones(size, np.uint8)
        return self._buffer
