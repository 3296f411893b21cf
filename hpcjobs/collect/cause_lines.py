"""What lists of causes are made of: a class with the patterns of its lines, and the prefixes of ranks' lines."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

# The prefixes of a rank's line: `[1,0]<stderr>:` (mpirun --tag-output; version 5 puts the job's name and @ before the
# numbers), `3: ` (srun --label), that of horovodrun, with or without the time, `[default0]:` (torchrun), `[rank0]: `
# (PyTorch's own tracebacks) and `(Worker pid=7)` (Ray).
RANK = (
    r"^[ \t]*(?:(?:[A-Z][\w :]{0,30})?\[(?:[^\s\[\]@]{1,60}@)?[\d,]+\]<std(?:out|err)> ?: ?|\d{1,6}: "
    r"|\[(?:rank|default)\d{1,6}\]: ?|\(\w{1,40} pid=\d+[^)\n]{0,60}\) ?){0,3}"
)
# Slurm 26.05 begins the lines of its step daemon with a time instead of the program's name. Other programs print a time
# in that form, too: only Slurm's own phrases count there.
_SLURMS_TIME = (
    r"\[\d{4}-\d\d-\d\dT[\d:.]+\] error: (?= ?(?:\*\*\* (?:JOB|STEP) |Detected \d+ oom|pyxis: |spank|execve\(\)"
    r"|mpi/pm|container_[gp]_|task[_/]|cgroup|xcgroup|proctrack|job_container|run_command: |Plugin stack "
    r"|Failed to (?:send|invoke)\b|[Cc]ouldn't chdir|[Cc]ould not (?:run|open)\b"
    r"|Unable to (?:create TMPDIR|resolve|establish|unlink)|Setting TMPDIR"
    r"|[Ee]xceeded (?:job|step) |write to unblock|[\w/: ]{0,40}\bprolog\b|_\w+: ))"
)
# With `LogTimeFormat=thread_id`: `May 20 07:32:44.587076 360746 slurmstepd   0x40000004af00: error: `.
_THREAD = r"(?:[A-Z][a-z]{2} [ \d]\d [\d:.]{8,} \d+ )?"
STEPD = rf"(?:{_THREAD}slurmstepd(?:\S*| +0x[0-9a-f]+): error: |{_SLURMS_TIME})"
# How srun reports the end of a task: `srun: error: n2: task 1: ` or `tasks 0-3,5: `.
TASK_END = r"srun: error: \S+: tasks? [\d,-]+: "

# The kind of a launcher's summary.
LAUNCHER = "launcher"

# A line that says so is no failure, whatever else it says: the program goes on. (NCCL's WARN is its word for errors.)
_HARMLESS = re.compile(
    r"(?<!NCCL )\bwarn(?:ing)?s?\b(?! The)|\w+Warning\b|\(ignored\)|\bignor(?:ed|ing)\b|\bretry(?:ing)?\b"
    r"|\bfall(?:ing)? ?back\b|\bskipp(?:ed|ing)\b|Exception ignored|\bgoing to /tmp instead"
    # The levels of C++'s loggers: TensorFlow's, PyTorch's, glog's, NCCL's.
    r"|: [WI] [\w./-]+:\d+\] |\[[WI](?:\d+ [\d:.]+)? ?\w+\.cpp:|\b[WI]\d{4} \d\d:\d\d:\d\d\.\d+|\bNCCL INFO ",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Cause:
    """The lines of one class. Lines of `kind` "" report a failure without its class; those of "own" name it.

    Those of LAUNCHER have no class either: they say that a process failed, and never why. `warnings`: a line counts
    even if it says that it is a warning.

    A message shows what the named groups of `pattern` match, or the whole line if it has none.
    """

    kind: str
    pattern: re.Pattern[str]
    warnings: bool = True

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """The lines of a text that count, in their order."""
        for match in self.pattern.finditer(text):
            if self.warnings or not _HARMLESS.search(text, *_line(text, match)):
                yield match


def lines(kind: str, *patterns: str) -> Cause:
    """The lines of a class that match one of these patterns."""
    return Cause(kind, re.compile("|".join(patterns), re.MULTILINE))


def errors(kind: str, *patterns: str) -> Cause:
    """As `lines`, without lines that say of themselves that they are warnings."""
    return Cause(kind, re.compile("|".join(patterns), re.MULTILINE), warnings=False)


def go_ends_itself(frame: str = "") -> str:
    """The line with which a program in Go ends itself, and the beginning of its stacks, which come below.

    `frame`: one of the first stack frames matches it. (The second form is the first, shown as one line.)
    """
    begins = r"(?:panic: |fatal error: |runtime/cgo: )[^\n]*"
    stack = r"\bgoroutine \d+ \[[^\n]*"
    within = rf"(?:\n[^\n]*){{0,12}}?\n[^\n]*(?P<frame>{frame}\S*)" if frame else ""
    return (
        rf"{RANK}(?P<panic>{begins})\n[\s\S]{{0,1500}}?(?P<stack>{stack}){within}"
        rf"|^{begins}{stack}{f' {frame}' if frame else ''}"
    )


def is_harmless(line: str) -> bool:
    """Whether a line says of itself that it is a warning or a note: the program goes on."""
    return _HARMLESS.search(line) is not None


def _line(text: str, match: re.Match[str]) -> tuple[int, int]:
    end = text.find("\n", match.start())
    return text.rfind("\n", 0, match.start()) + 1, end if end >= 0 else len(text)
