"""Where the workers run: in this process, in other processes of this machine, or as one Slurm job array (submitit)."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcjobs.base import lock
from hpcjobs.base.errors import InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.chexnet.data.workshop import Workshop, work
from hpcjobs.config import Cluster, profiles
from hpcjobs.schedulers.factory import capabilities
from hpcjobs.schedulers.slurm.commands import NotHere, is_unreachable

# Memory of a worker: TensorFlow (0.4 GiB) and one image at a time.
_WORKER_MIB = 2048
# With fewer shards per worker, starting it (importing TensorFlow) takes longer than it saves.
_SHARDS_PER_WORKER = 4
_YEAR_MIN = 365 * 24 * 60
_LOOK_S = 0.5
# How often sacct is queried. The workers' own files show everything but that a worker was killed.
_ASK_S = 15.0


@dataclass(frozen=True)
class Local:
    """`workers` processes on this machine; None: as many as its CPUs and the number of shards justify."""

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: give 1 or more")


IN_THIS_PROCESS = Local(1)


@dataclass(frozen=True)
class Array:
    """One job array of `jobs` jobs on `cluster`, each with `workers` tasks of one CPU."""

    cluster: Cluster
    jobs: int
    workers: int = 1

    def __post_init__(self) -> None:
        if not capabilities(self.cluster).compute_nodes:
            raise InputError(f"--cluster {self.cluster.name}: its scheduler is {self.cluster.scheduler}: use --workers")
        if self.cluster.container.kind != "none":
            # submitit starts Python on the node, outside any container.
            raise InputError(
                f"--cluster {self.cluster.name}: data are not prepared in a container: give a profile without "
                "`container`, whose `python` is installed on the nodes"
            )
        for option, value in (("--jobs", self.jobs), ("--workers", self.workers)):
            if value < 1:
                raise InputError(f"{option} {value}: give 1 or more")


Where = Local | Array


def chosen(workers: int | None, cluster: str | None, jobs: int | None, only: Sequence[str]) -> Where:
    """Where the options --workers, --cluster, --jobs and --only put the workers; None: not given. Raises InputError."""
    if only and (cluster or workers):
        raise InputError("--only works in this process: leave out --workers and --cluster")
    if cluster is not None:
        return Array(profiles.cluster(cluster), 4 if jobs is None else jobs, 1 if workers is None else workers)
    if jobs is not None:
        raise InputError("--jobs needs --cluster; on this machine give --workers")
    return Local(workers)


def carry_out(shop: Workshop, run: str, pending: int, where: Where, look: Callable[[int], None]) -> None:
    """Have workers make the `pending` shards of `run`; returns when all have ended.

    `look` is called with the number of images processed so far, several times a second. An interruption ends the
    workers. Raises SchedulerUnreachable, SubmitRefused.
    """
    if not pending:
        return
    if isinstance(where, Local):
        workers = where.workers or max(1, min(len(os.sched_getaffinity(0)), pending // _SHARDS_PER_WORKER))
        if workers == 1:
            work(shop.out, run, 0, None, look)
            return
    jobs: list[Any] = []
    try:
        if isinstance(where, Local):
            with _ctrl_c_blocked():
                jobs += _start_local(shop, run, min(workers, pending))
        else:
            jobs += _start_array(shop, run, where)
        _wait(shop, run, jobs, look, ask=isinstance(where, Array))
    except BaseException:
        for job in jobs:
            if isinstance(where, Array):
                job.cancel(check=False)
            elif not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)  # to submitit's controller, which passes it to its worker
        raise


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Blocks SIGINT in the processes that are started within, which inherit the signal mask.

    A terminal sends Ctrl-C to all of them, and each would show a traceback. A SIGINT that this process gets
    meanwhile is delivered at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(shop: Workshop, run: str, jobs: Sequence[Any], look: Callable[[int], None], *, ask: bool) -> None:
    asked = time.monotonic()
    while True:
        look(shop.done(run))
        if ask and time.monotonic() - asked > _ASK_S:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Slurm did not answer: the next query may succeed
                jobs[0].watcher.update()
            asked = time.monotonic()
        if all(job.done() for job in jobs):
            look(shop.done(run))
            return
        time.sleep(_LOOK_S)


def _start_local(shop: Workshop, run: str, workers: int) -> list[Any]:
    import submitit

    executor = submitit.LocalExecutor(folder=shop.root / "logs")
    executor.update_parameters(timeout_min=_YEAR_MIN)
    return [executor.submit(_task, shop.out, run, index, 1, lock.process()) for index in range(workers)]


def _start_array(shop: Workshop, run: str, where: Array) -> list[Any]:
    import submitit

    for command in ("sbatch", "srun"):  # submitit needs both
        if shutil.which(command) is None:
            raise NotHere(
                f"--cluster {where.cluster.name}: {command} is not on PATH: is this a login node of a Slurm cluster?"
            )
    try:
        python = shlex.quote(where.cluster.python) if where.cluster.python else None
        executor = submitit.SlurmExecutor(folder=shop.root / "logs", python=python)
        executor.update_parameters(**_parameters(where))
        arguments = [(shop.out, run, job, where.workers, None) for job in range(where.jobs)]
        with redirect_stderr(io.StringIO()):  # submitit prints sbatch's output, which the error repeats
            return list(executor.map_array(_task, *zip(*arguments, strict=True)))
    except (RuntimeError, submitit.core.utils.FailedJobError, OSError) as error:
        text = " ".join(str(error).split())
        messages = [part.strip() for part in text.split("sbatch: error: ")[1:]]
        reason = "; ".join(dict.fromkeys(messages)) or text
        kind = SchedulerUnreachable if is_unreachable(text) else SubmitRefused
        raise kind(f"--cluster {where.cluster.name}: {reason[:300]}") from None


def _parameters(where: Array) -> dict[str, Any]:
    """submitit's parameters for its sbatch script, from the cluster's profile. No GPUs are requested."""
    cluster = where.cluster
    more: dict[str, Any] = dict(cluster.sbatch)
    for name in ("qos", "reservation", "constraint", "exclude", "account", "partition", "time"):
        if (value := getattr(cluster, name)) is not None:
            more[name] = value
    setup = [f"module load {module}" for module in cluster.modules]
    setup += [f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items()]
    setup += [cluster.prologue] if cluster.prologue else []
    return {
        "job_name": "hpcjobs-data",
        "nodes": 1,
        "ntasks_per_node": where.workers,
        "cpus_per_task": 1,
        "mem_per_cpu": f"{_WORKER_MIB}M",
        "array_parallelism": where.jobs,
        "setup": setup,
        "additional_parameters": more,
    }


def _task(out: Path, run: str, job: int, tasks: int, driver: dict[str, Any] | None) -> None:
    """One task of job number `job`; each job has `tasks` tasks."""
    import submitit

    if driver:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # The driver ends it by SIGTERM, which submitit makes it ignore.
    work(out, run, job * tasks + submitit.JobEnvironment().global_rank, driver)
