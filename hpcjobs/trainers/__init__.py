"""What a run executes, and how its files are read: the protocol of a trainer, which has no other user than hpcjobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from hpcjobs.base.contract import Finding, RunConfig
from hpcjobs.base.records import ExitRecord, Tell
from hpcjobs.base.sizes import Size
from hpcjobs.collect.attempts import Reading
from hpcjobs.config import Cluster, Experiment

Start = Literal["rank", "node", "once"]


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable of the job script, in a word of a command: known only on the node."""

    name: str


# A word of a command: texts and variables, one after another. The job script quotes both.
Word = tuple[str | Variable, ...]


@dataclasses.dataclass(frozen=True)
class Stop:
    """How a command is asked to write a checkpoint and end: the signal's name, and the exit code that then says so."""

    signal: str
    exit_code: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What one run executes.

    words: the command.
    start: who starts its processes; see Size.
    open: the command is anybody's. Then hpcjobs' variables are in its environment, and each process that a launcher
    starts runs within rank.sh, which says its rank in everybody's words and records how it ended. A trainer that is not
    open does both itself.
    environment: more variables, whose values are known before the run.
    workdir: the folder in which the command starts; None: the attempt's folder.
    stop: absent if the command is not asked to stop. A trainer that is not open obeys SIGUSR1 with EXIT_INTERRUPTED.
    stall_s: seconds without output after which an open command is ended; 0: never.
    mpirun: options of Open MPI's mpirun that it needs.
    measure: what HPCJOBS_MEASURE says to a meter in the processes of an open command, besides the run that they are of.
    metered: a meter is put into them, with nothing edited.
    nccl_inspector: an open command's NCCL is asked to record each collective, by its Inspector.
    """

    words: tuple[Word, ...]
    start: Start = "rank"
    open: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: str | None = None
    stop: Stop | None = None
    stall_s: int = 0
    mpirun: tuple[str, ...] = ()
    measure: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metered: bool = False
    nccl_inspector: bool = False


@dataclasses.dataclass(frozen=True)
class NodeCheck:
    """How a check looks at a compute node.

    command: words of the job, run once by the launcher; it writes contract.CHECK_NODE into the check's folder.
    request: what it finds in contract.CHECK_REQUEST there. files: templates that it finds there too, as they are.
    """

    command: tuple[str, ...]
    request: Mapping[str, Any]
    files: tuple[str, ...] = ()


class Trainer(Protocol):
    """One kind of training. There is one object of each kind, in `hpcjobs.trainers.registry`.

    An `experiment` is always of the type `keys`. Nobody else asks which trainer it is.
    """

    keys: type[Experiment]
    # Whether its processes find each other by MPI, and so need a launcher that belongs to one.
    needs_mpi: bool
    # Tables that its runs leave in their attempt folders, by file name, with their columns: collected into one.
    tables: Mapping[str, Sequence[str]]

    def check_keys(self, experiments: Sequence[Experiment], cluster: Cluster | None) -> None:
        """Whether the keys of a sweep's variants go together, and with the profile if there is one.

        It looks at nothing else. Raises InputError, with its `key` if one key is wrong.
        """
        ...

    def check(self, experiments: Sequence[Experiment], cluster: Cluster, tell: Tell) -> None:
        """Whether a sweep of these variants can run at all. `tell` receives warnings. Raises InputError."""
        ...

    def check_size(self, experiment: Experiment, size: Size) -> None:
        """Raises InputError if the experiment cannot run at that size."""
        ...

    def start(self, experiment: Experiment) -> Start:
        """Who starts the processes."""
        ...

    def restarts(self, experiment: Experiment) -> bool:
        """Whether EXIT_INTERRUPTED of a run means that it wrote a checkpoint and can be started again."""
        ...

    def launch(self, experiment: Experiment, size: Size, cluster: Cluster) -> Launch:
        """What a run of that size executes."""
        ...

    def inputs(self, experiment: Experiment) -> Sequence[str]:
        """The absolute paths that runs read: they are mounted into containers, and looked for by checks."""
        ...

    def data_dir(self, experiment: Experiment, made: Path) -> str:
        """The folder of a run's data, for its run.yaml, or empty. `made` is where `prepare` makes data."""
        ...

    def prepare(self, experiments: Sequence[Experiment], folder: Path) -> None:
        """Make what the runs read and does not exist yet, in the sweep's data `folder`. Raises InputError."""
        ...

    def work(self, experiment: Experiment, size: Size, repeat: int) -> float | None:
        """The most units that a run works off; None if unknown."""
        ...

    def unit(self, experiment: Experiment) -> str:
        """What its rates and `work` count; "" if only the log says it."""
        ...

    def stated_rate(self, experiment: Experiment) -> float | None:
        """Units per second of one GPU, as the experiment states it; None if it does not."""
        ...

    def unknown_cost(self, experiment: Experiment, cluster: Cluster, *, rate_known: bool) -> str:
        """What is missing if the cost of a plan is unknown: an ending of a message.

        rate_known: an earlier sweep, or the experiment, says how fast its runs are.
        """
        ...

    def may_end_early(self, experiment: Experiment) -> bool:
        """Whether a run may do less than `work`."""
        ...

    def read(self, run: RunConfig, attempt: Path, exit: ExitRecord | None) -> Reading:
        """What the files in an attempt's folder say. `exit` is its exit.json; None: it has not ended."""
        ...

    def hints(self) -> Mapping[str, str]:
        """What to do about a class of failure, where the general hint does not fit."""
        ...

    def findings(self, experiment: Experiment) -> Iterator[Finding]:
        """The faults of an experiment that this host can see."""
        ...

    def node_check(self, experiments: Sequence[Experiment], cluster: Cluster, gpus: int, folder: Path) -> NodeCheck:
        """How to look at a node for runs of up to that many GPUs. `folder` is the check's own, absolute."""
        ...

    def bytes_on_disk(self, experiment: Experiment) -> int:
        """The most bytes that one run leaves in the sweep's folder."""
        ...
