"""Finds the words of a command itself in a log that its launcher, MPI and the job script write to, too. Pure.

Open MPI prints its messages between two lines of 74 hyphens; Slurm's and hpcjobs' lines begin with the program's name;
torchrun's report follows what its processes printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hpcjobs.collect import causes

_RULE = re.compile(r"-{70,}")
# A longer text between two rules is not a message of Open MPI.
_MESSAGE_LINES = 30
# What launchers say of an end, whatever its cause. Open MPI's messages may lack a rule where a log is cut.
_OF_LAUNCHERS = re.compile(
    r"(?:srun|sbatch|slurmstepd\S*|mpirun|mpiexec|orterun|hpcjobs): "
    r"|mpirun (?:noticed|detected|has exited)|Primary job +terminated|a non-zero exit code\. Per user-direction"
    r"|(?:thus causing|the job to be terminated)|Process name: |Exit code: +\d"
    r"|MPI_ABORT was invoked|with errorcode -?\d|NOTE: invoking MPI_ABORT|You may or may not see output"
    r"|exactly when Open MPI kills them|\[\S+:\d+\] (?:\d+ more process|Set MCA parameter|\*\*\*|\[ ?\d+\] )"
    r"|\S+: line \d+: +\d+ \w[\w ]*(?:\(core dumped\))?  "  # bash on a process that a signal ended
    r"|[EWI]\d{4} [\d:.]+ \d+ torch/distributed/elastic/|(?:ERROR|WARNING|INFO):torch\.distributed\.elastic"
)
_TORCHRUN_REPORTS = re.compile(r"failed \(exitcode: -?\d+\) local_rank: |ChildFailedError")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):$")
_RAISED = re.compile(r"\w[\w.]*(?:Error|Exception|Interrupt|Exit)\b")
_FRAME = re.compile(r'File "[^"]*", line \d+|[\^~ ]+$')
_PREFIX = re.compile(causes.RANK)
# How programs begin the line that says what is wrong. A number after `error:` is a figure, as that of a metric.
_ERROR = re.compile(
    r"\b(?:ERROR|FATAL|CRITICAL)\b|\b(?:[Ee]rror|[Ff]atal): *(?![-+.\d\s])"
    r"|: (?:command )?not found$|No such file or directory|Permission denied"
)
# Among so many last lines the one that looks like an error is the cause; an older one did not end the program.
_NEAR_THE_END = 50


def last_words(lines: Sequence[str]) -> str:
    """The last line of the command's own that says what is wrong, else its last line; "" if it printed none.

    Lines that only follow from the end of another rank do not count. What ranks print mixes: of the lines that several
    print, the last is the one whose first stands last.
    """
    own = list(dict.fromkeys(_own(lines)))
    errors = [line for line in own[-_NEAR_THE_END:] if _ERROR.search(line)]
    return (errors or own or [""])[-1]


def _own(lines: Sequence[str]) -> Iterator[str]:
    bare = [_PREFIX.sub("", line, count=1) for line in lines]
    skipped = _messages(bare)
    raised = max((number for number, line in enumerate(bare) if _RAISED.match(line)), default=-1)
    raising = False
    for number, line in enumerate(bare):
        if _TORCHRUN_REPORTS.search(line):
            return
        if number in skipped or _OF_LAUNCHERS.match(line) or not any(map(str.isalpha, line)):
            continue
        if _TRACEBACK.match(line):
            raising = number < raised
        elif raising and not _RAISED.match(line):
            pass  # a line of the program's source
        elif not _FRAME.match(line):
            raising = False
            if not causes.is_consequence(line):
                yield lines[number]


def _messages(lines: Sequence[str]) -> set[int]:
    """The numbers of the lines that stand in Open MPI's messages."""
    rules = [number for number, line in enumerate(lines) if _RULE.fullmatch(line)]
    found: set[int] = set()
    begun: int | None = None
    for number in rules:
        if begun is not None and number - begun <= _MESSAGE_LINES:
            found.update(range(begun, number + 1))
            begun = None
        else:
            begun = number
    return found
