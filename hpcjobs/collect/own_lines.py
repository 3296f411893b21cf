"""Finds the words of a command itself in a log that its launcher, MPI and the job script write to, too. Pure.

Open MPI prints its messages between two lines of 74 hyphens; Slurm's and hpcjobs' lines begin with the program's name;
torchrun's report follows what its processes printed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from hpcjobs.collect import causes

_RULE = re.compile(r"-{70,}")
# Open MPI wraps its messages at 75 characters; a shorter line ends by itself.
_WRAPPED = 40
_SENTENCE_LINES = 5
_OPEN_MPI_RULE = "-" * 74
# A sentence of five words at least, and no warning.
_BEGINS = re.compile(r"(?!WARNING|NOTE|Note|Traceback)[A-Z]\w*(?: +\S+){4}")
_OF_OTHER_LINES = re.compile(
    rf"\[\S+:\d+\] |\*\*\* |(?:srun|slurmstepd\S*|mpirun|sbatch): |{causes.STEPD}|-->|[A-Z][\w ]{{0,20}}: "
)
# A longer text between two rules is not a message of Open MPI.
_MESSAGE_LINES = 30
# What launchers say of an end, whatever its cause. Open MPI's messages may lack a rule where a log is cut.
_OF_LAUNCHERS = re.compile(
    rf"(?:srun|sbatch|slurmstepd\S*|mpirun|mpiexec|orterun|hpcjobs): |{causes.STEPD}"
    r"|mpirun (?:noticed|detected|has exited)|Primary job +terminated|a non-zero exit code\. Per user-direction"
    r"|(?:thus causing|the job to be terminated)|Process name: |Exit code: +\d"
    r"|MPI_ABORT was invoked|with errorcode -?\d|NOTE: invoking MPI_ABORT|You may or may not see output"
    r"|exactly when Open MPI kills them|\[\S+:\d+\] (?:\d+ more process|Set MCA parameter|\*\*\*|\[ ?\d+\] )"
    r"|\S+: line \d+: +\d+ \w[\w ]*(?:\(core dumped\))?  "  # bash on a process that a signal ended
    r"|subprocess\.CalledProcessError: Command [^\n]{0,80}\bpython"
    r"|=+ {2,}[A-Z]|\[[\d :,-]+\] \[(?:INFO|ERROR)\] \[launch\.py|\[rank: \d+\] Child process"
    r"|[EWI]\d{4} [\d:.]+ \d+ torch/distributed/elastic/|(?:ERROR|WARNING|INFO):torch\.distributed\.elastic"
)
_TORCHRUN_REPORTS = re.compile(r"failed \(exitcode: -?\d+\) local_rank: |ChildFailedError")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):$")
_RAISED = re.compile(r"\w[\w.]*(?:Error|Exception|Interrupt|Exit)\b")
_COUNTED = re.compile(r"ValidationError: \d+ validation errors? for \S+$")
_FURTHER = re.compile(r"For further information visit ")
_FRAME = re.compile(r'File "[^"]*", line \d+|[\^~ ]+$')
# Stack frames of C++, of Python's faulthandler and of MPI and UCX, and what stands around them.
_TRACE = re.compile(
    r"frame #\d+: |#\d+ +(?:0x|[\w<~]+(?:::|\())|@ +(?:0x)?[0-9a-f]{6,}|\d+ +\S+\.so\S*\(|\S+\(\S*\+0x[0-9a-f]+\)"
    r"|Image +PC +Routine|\S+ +[0-9A-F]{8,} +\S+ +\S+ +\S+$"  # Intel's Fortran
    r"|[^\n]*\[0x[0-9a-f]{6,}\]$|\*\*\* (?:Check failure|BEGIN|Begin|END|End)\b[\w ]* (?:stack trace|STACK TRACE)"
    r"|=+ backtrace|(?:Exception raised from|(?:Current t|T)hread 0x)[^\n]*\(most recent call|C\+\+ CapturedTraceback"
    r"|(?:Stack trace|Backtrace|Call stack|Extension modules)\b[^\n]*:|terminate called (?:after|without|recursively)"
    r"|During handling of the above exception|The above exception was the direct cause|PC: @ 0x"
    r"|To avoid data inconsistency, we are taking the entire process down"
)
_PREFIX = re.compile(causes.RANK)
# How programs begin the line that says what is wrong. A number after `error:` is a figure, as that of a metric.
_ERROR = re.compile(
    r"\b(?:ERROR|FATAL|CRITICAL)\b|\bsevere \(\d+\): |\b(?:[Ee]rror|[Ff]atal): *(?=[^-+.\d\s])"
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
    return _error(own) or (own or [""])[-1]


def last_error(lines: Sequence[str]) -> str:
    """The last line of the command's own, near its end, that says what is wrong; "" if none does."""
    return _error(list(dict.fromkeys(_own(lines))))


def _error(own: Sequence[str]) -> str:
    last = reversed(own[-_NEAR_THE_END:])
    return next((line for line in last if _ERROR.search(line) and not causes.is_harmless(line)), "")


def _own(lines: Sequence[str]) -> Iterator[str]:
    bare = [_PREFIX.sub("", line, count=1) for line in lines]
    skipped = _messages(bare)
    raised = max((number for number, line in enumerate(bare) if _RAISED.match(line)), default=-1)
    raising = False
    for number, line in enumerate(bare):
        if _TORCHRUN_REPORTS.search(line):
            return
        if number in skipped or _OF_LAUNCHERS.match(line) or _is_decoration(line):
            continue
        if _TRACEBACK.match(line):
            raising = number < raised
        elif raising and not _RAISED.match(line):
            pass  # a line of the program's source
        elif not _FRAME.match(line):
            raising = False
            if not causes.is_consequence(line) and not causes.is_doubtful(line):
                yield lines[number]


def bare(line: str) -> str:
    """The line without the prefixes of launchers."""
    return _PREFIX.sub("", line, count=1)


def last_message(lines: Sequence[str]) -> str:
    """The first sentence of Open MPI's last message that is not about the end of a process; "" without one."""
    plain = [bare(line) for line in lines]
    inside = _messages(plain)
    starts = [
        number
        for number in inside
        if number - 1 in inside and plain[number - 1] == _OPEN_MPI_RULE and _BEGINS.match(plain[number])
    ]
    told = [number for number in starts if not _OF_LAUNCHERS.match(plain[number])]
    if not told:
        return ""
    text = "\n".join(lines)
    return sentence(text, sum(len(line) + 1 for line in lines[: max(told)]))


def last_line(lines: Sequence[str]) -> str:
    """The last line that is neither a ruler nor a stack frame; "" without one."""
    return next((line for line in reversed(lines) if not _is_decoration(bare(line))), "")


def whole(text: str, start: int, place: int = 0) -> str:
    """As `sentence`; an exception that only announces its message has its next line, too.

    pydantic's has what is wrong with the first key below the number of errors.
    """
    line, _, after = text[start : start + 3000].partition("\n")
    if _COUNTED.search(line):
        own = (bare(each).strip() for each in after.split("\n") if causes.label(each) == causes.label(line))
        below = itertools.takewhile(lambda each: not _FURTHER.match(each), filter(None, own))
        return ": ".join([line, *itertools.islice(below, 2)])
    following = bare(after.partition("\n")[0])
    if (
        line.endswith(":")
        and _RAISED.match(bare(line))
        and not (_TRACEBACK.match(following) or _is_decoration(following))
    ):
        return f"{line} {following}"
    return sentence(text, start, place)


def sentence(text: str, start: int, place: int = 0) -> str:
    """The line of a text at `start`; the sentence at `place` of that line where Open MPI wrapped it, after a rule."""
    before = text[max(0, start - 3000) : start].split("\n")[:-1]
    line, *after = text[start : start + 3000].split("\n")[:_SENTENCE_LINES]
    if _OPEN_MPI_RULE not in map(bare, before[-_MESSAGE_LINES:]) or _RAISED.match(bare(line)):
        return line
    found = [line]
    while before and _continues(bare(found[0])) and _is_open(before[-1]):
        found.insert(0, before.pop())
    matched = len(found) - 1
    for each in after:
        if not _is_open(found[-1]) or not _is_prose(bare(each)):
            break
        found.append(each)
    first = found[0] if matched == 0 else bare(found[0])
    if len(found) == 1:
        return line
    words = [first, *map(bare, found[1:])]
    joined = " ".join(words)
    at = len(" ".join(words[:matched])) + place + 1
    end = joined.find(". ", at)
    begin = joined.rfind(". ", 0, at)
    return joined[begin + 2 if begin >= 0 else 0 : end + 1 if end >= 0 else None]


def _continues(line: str) -> bool:
    return line[:1].islower() and _is_prose(line)


def _is_open(line: str) -> bool:
    """Whether the sentence of this line goes on in the next one: it is long, and has no end."""
    plain = bare(line)
    return len(plain) > _WRAPPED and plain[-1:] not in ".:;!?" and _is_prose(plain)


def _is_prose(line: str) -> bool:
    return bool(line) and not _is_decoration(line) and not _OF_OTHER_LINES.match(line) and line.count(" ") > 0


def _is_decoration(line: str) -> bool:
    """Whether a line is a ruler, a stack frame or a heading of frames."""
    return not any(map(str.isalpha, line)) or _TRACE.match(line) is not None or _FRAME.match(line) is not None


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
