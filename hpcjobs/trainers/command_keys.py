"""The keys of an experiment whose runs execute a command of the user, each with its description."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from hpcjobs.base.contract import divide_batch
from hpcjobs.config import Experiment
from hpcjobs.config.words import (
    NonNegativeInt,
    OneLine,
    PositiveFloat,
    PositiveInt,
    Section,
    doc,
    matching,
    path_doc,
    verbatim_doc,
)
from hpcjobs.trainers.measure_words import (
    ControlPasses,
    ControlRepeats,
    ControlSteps,
    MaxSteps,
    PartsPrecision,
    Precision,
    WindowSteps,
)

# A word of a command line: any text but the zero byte, which no process can be given.
Word = Annotated[str, matching(r"^[^\x00]*\Z", "text without zero bytes")]
ParameterName = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_-]{0,39}\Z",
        "a name of up to 40 letters (A to z), digits, - and _, the first a letter or _",
    ),
]


class CommandBatch(Section, frozen=True, kw_only=True):
    """Samples (images, sequences) per step. Give local (fixed per GPU: weak scaling), global (strong), or neither.

    Without a batch, the table knows no kind of scaling, and a step's time only if the log gives it.
    """

    EXCLUSIVE: ClassVar = ("local", "global")

    local: Annotated[PositiveInt | None, doc("Samples per GPU and step.")] = None
    global_: Annotated[PositiveInt | None, doc("Samples per step over all GPUs.")] = msgspec.field(
        name="global", default=None
    )

    def __post_init__(self) -> None:
        if self.local is not None and self.global_ is not None:
            raise ValueError("give one of batch.local (weak scaling) and batch.global (strong scaling), or neither")

    def split(self, gpus: int) -> tuple[int | None, int | None]:
        """(local, global) batch of `gpus` GPUs, in units; None if there is no batch.

        Raises ValueError where the global batch does not divide over the GPUs.
        """
        if self.local is None and self.global_ is None:
            return None, None
        return divide_batch(self.local, self.global_, 1, gpus)


class CommandMeasure(Section, frozen=True, kw_only=True):
    """How the rate of a run is known: by a meter in its loop, or from its log."""

    format: Annotated[
        str,
        doc(
            "auto: what the meter wrote (train.log in HPCJOBS_METRICS), or else the pattern if there is one, or else "
            "the first format that is recognised; meter: the meter alone; pattern: the pattern alone; none: nothing "
            "is measured, and the table has times only; or the name of a format, as `hpcjobs collect --format NAME` "
            "takes it."
        ),
    ] = "auto"
    meter: Annotated[
        Literal["auto", "off"],
        verbatim_doc(
            "auto: where format is auto or meter, the steps of a PyTorch script are timed without an edit; off: only "
            "those of a script that says `import meter`."
        ),
    ] = "auto"
    pattern: Annotated[
        str | None,
        verbatim_doc(
            "A regular expression of Python, with named groups: throughput (units per second), step_ms or step_s (a "
            "step's time), samples (per step), step, score. `hpcjobs collect --logs FILE --pattern REGEX` tries it."
        ),
    ] = None
    of: Annotated[
        Literal["all", "rank"],
        doc(
            "What a figure counts. all: the work of all ranks; rank: that of one, so it is multiplied by their number."
        ),
    ] = "all"
    unit: Annotated[
        OneLine | None,
        doc(
            "What throughput counts: images, samples, sequences, tokens, steps, ... Absent: as the log's format says "
            "it, or else samples."
        ),
    ] = None
    warmup: Annotated[
        NonNegativeInt,
        doc(
            "Matches of the pattern that are left out at the beginning; steps, if the pattern has the group step, and "
            "for the meter."
        ),
    ] = 10
    take: Annotated[
        Literal["mean", "median", "last"], doc("Which of the matches after the warm-up is the run's rate.")
    ] = "mean"
    window_steps: WindowSteps = 5
    precision: Precision = 0.01
    max_steps: MaxSteps = 300
    control_repeats: ControlRepeats = 1
    control_passes: ControlPasses = 16
    control_steps: ControlSteps = 3
    parts_precision: PartsPrecision = 0.02
    flops_per_unit: Annotated[
        PositiveFloat | None,
        doc("Floating-point operations of the model for one `unit`, forward and backward; absent: no mfu is known."),
    ] = None
    flops_precision: Annotated[
        Literal["fp32", "tf32", "fp16", "bf16", "fp8"] | None,
        doc("In what the model's matrix products are computed; mfu is a fraction of the GPU's dense peak in it."),
    ] = None
    nccl_inspector: Annotated[
        bool, doc("true: NCCL's Inspector plugin, where it is installed, records the collectives of each rank.")
    ] = False

    @property
    def metered(self) -> bool:
        """Whether a meter may measure the run."""
        return self.meter == "auto" and self.format in ("auto", "meter")


class Stop(Section, frozen=True, kw_only=True):
    """How the command is asked to write a checkpoint and end, before the time limit or when the job is preempted.

    Absent: it is not asked, and a run that reaches its time limit is not started again.
    """

    signal: Annotated[Literal["USR1", "USR2", "TERM"], doc("The signal, which every process of the command gets.")] = (
        "USR1"
    )
    exit_code: Annotated[
        int,
        msgspec.Meta(ge=1, le=125),
        doc("The exit code that means: a checkpoint is written, start me again. 75 is EX_TEMPFAIL of sysexits.h."),
    ] = 75


class CommandExperiment(Experiment, frozen=True, kw_only=True):
    """A training command, run at any number of GPUs."""

    ADVICE: ClassVar = "a value of the command's own is params.NAME"

    trainer: Annotated[
        Literal["command"], doc("command: any training command; chexnet: the trainer that comes with hpcjobs.")
    ] = "command"
    mode: Annotated[
        Literal["train", "benchmark"],
        doc(
            "train: the command as it is, to its end; benchmark: the meter ends it when the time of a step is known to "
            "measure.precision, and takes the step apart. A benchmark is not started again, so `stop` does not count."
        ),
    ] = "train"
    start: Annotated[
        Literal["rank", "node", "once"],
        doc(
            "Who starts the processes. rank: the profile's launcher, one for each GPU; node: the launcher, one on each "
            "node, and torchrun or the like starts the rest; once: the job script, one on the first node."
        ),
    ] = "rank"
    command: Annotated[
        tuple[Word, ...],
        msgspec.Meta(min_length=1),
        verbatim_doc(
            "The command and its arguments. Placeholders in braces are filled in: {gpus} {nodes} {gpus_per_node} "
            "{processes_per_node} {head} {port} {batch.local} {batch.global} {repeat} {seed} {run_dir} {attempt_dir} "
            "{params.KEY}; {{ and }} are braces."
        ),
    ]
    workdir: Annotated[
        OneLine | None,
        path_doc(
            "Folder in which the command starts; absent: where `hpcjobs sweep` was typed.", folder=True, here=True
        ),
    ] = None
    inputs: Annotated[
        tuple[OneLine, ...],
        doc(
            "Files and folders that the command reads: absolute paths, or relative to workdir. --set inputs=A,B gives "
            "two of them."
        ),
    ] = ()
    batch: CommandBatch = CommandBatch()
    params: Annotated[
        dict[ParameterName, Word],
        verbatim_doc(
            "Values of {params.KEY} in the command, under names of your own; --set params.KEY=V1,V2 sweeps one."
        ),
    ] = msgspec.field(default_factory=dict)
    measure: CommandMeasure = CommandMeasure()
    stop: Stop | None = None
    stall_s: Annotated[
        NonNegativeInt,
        doc("The run is ended after this many seconds without a line of output or of a meter; 0: never."),
    ] = 1800
    work: Annotated[
        PositiveFloat | None,
        doc("Units that a whole run works off, such as samples x epochs: from it the plan computes GPU-hours."),
    ] = None
