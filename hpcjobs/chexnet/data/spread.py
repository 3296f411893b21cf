"""Where the workers run: in this process, in others of this machine, or as one Slurm job array (submitit)."""

from __future__ import annotations

import io
import os
import re
import shlex
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
from hpcjobs.config import Cluster

# A worker holds TensorFlow (0.4 GiB) and one image at a time.
_WORKER_MIB = 2048
# Fewer shards than this per worker, and starting it (TensorFlow's import) takes longer than it saves.
_SHARDS_PER_WORKER = 4
_YEAR_MIN = 365 * 24 * 60
_LOOK_S = 0.5
# sacct is asked this often; the workers' own files tell of all but a killed one.
_ASK_S = 15.0
_AWAY = re.compile(
    r"[Uu]nable to contact|[Cc]ommunication|[Tt]imed out|[Cc]onnection|detect .srun|No such file.*sbatch"
)


@dataclass(frozen=True)
class Local:
    """`workers` processes on this machine; None: as many as its CPUs and the work are good for."""

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
        if self.cluster.scheduler != "slurm":
            raise InputError(f"--cluster {self.cluster.name}: its scheduler is {self.cluster.scheduler}: use --workers")
        if self.cluster.container.kind != "none":
            # submitit starts Python on the node itself.
            raise InputError(
                f"--cluster {self.cluster.name}: data are not prepared in a container: give a profile without "
                "`container`, whose `python` is one of the nodes"
            )
        for option, value in (("--jobs", self.jobs), ("--workers", self.workers)):
            if value < 1:
                raise InputError(f"{option} {value}: give 1 or more")


Where = Local | Array


def carry_out(shop: Workshop, run: str, pending: int, where: Where, look: Callable[[int], None]) -> None:
    """Have workers make the `pending` shards of `run`; returns when all have ended.

    `look` is called with the images gone through so far, some times a second. Raises
    SchedulerUnreachable, SubmitRefused. Interrupted, it ends the workers.
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
            with _deaf_children():
                jobs += _start_local(shop, run, min(workers, pending))
        else:
            jobs += _start_array(shop, run, where)
        _wait(shop, run, jobs, look, ask=isinstance(where, Array))
    except BaseException:
        for job in jobs:
            if isinstance(where, Array):
                job.cancel(check=False)
            elif not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)  # of submitit's controller, which tells its worker
        raise


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started herein never hear a Ctrl-C, which a terminal sends to all: they would show tracebacks.

    One that comes meanwhile is heard by this process at the end.
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
                warnings.simplefilter("ignore")  # of a Slurm that does not answer: it is asked again
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

    try:
        python = shlex.quote(where.cluster.python) if where.cluster.python else None
        executor = submitit.SlurmExecutor(folder=shop.root / "logs", python=python)
        executor.update_parameters(**_parameters(where))
        arguments = [(shop.out, run, job, where.workers, None) for job in range(where.jobs)]
        with redirect_stderr(io.StringIO()):  # submitit passes sbatch's words on, which the error repeats
            return list(executor.map_array(_task, *zip(*arguments, strict=True)))
    except (RuntimeError, submitit.core.utils.FailedJobError, OSError) as error:
        text = " ".join(str(error).split())
        said = [part.strip() for part in text.split("sbatch: error: ")[1:]]
        reason = "; ".join(dict.fromkeys(said)) or text
        kind = SchedulerUnreachable if _AWAY.search(text) else SubmitRefused
        raise kind(f"--cluster {where.cluster.name}: {reason[:300]}") from None


def _parameters(where: Array) -> dict[str, Any]:
    """What submitit's sbatch file says, from the cluster's profile. GPUs are not asked for."""
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
    """One task of job number `job`, of `tasks` in each."""
    import submitit

    if driver:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which the driver ends it; submitit has it do nothing
    work(out, run, job * tasks + submitit.JobEnvironment().global_rank, driver)
