"""Turns a run's state and evidence into a class of failure, a hint, and the nodes to exclude next time. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from hpcjobs.base.contract import ERROR_PREFIX, EXIT_INTERRUPTED, ErrorCode
from hpcjobs.base.hostlist import expand_hosts
from hpcjobs.base.records import ExitRecord, Failure, JobState, RankRecord
from hpcjobs.collect import causes
from hpcjobs.collect.failure_classes import FAILURE_CLASSES

# Final states of Slurm, and its reasons for other states, that name a class by themselves.
_WORDS = {
    "TIMEOUT": "timeout",
    "DEADLINE": "deadline",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "boot_failure",
    "PREEMPTED": "preempted",
    "REVOKED": "revoked",
    "NodeDown": "node_failure",
    "SystemFailure": "node_failure",
    "JobLaunchFailure": "launch",
    "OutOfMemory": "out_of_memory",
    "TimeLimit": "timeout",
}
# Causes outside the run: what its ranks report then is only a consequence.
_OUTSIDE = {"timeout", "reservation_ended", "out_of_memory", "node_failure", "preempted"}
# What a rank may report because it lost another.
_OF_OTHERS = {"traceback", "gloo_error", "nccl_error", "mpi_error"}
# A rank that loses another one notices at once. Ends that lie this close, in seconds, do not say which was first.
_TOGETHER_S = 0.5


def classify(
    answer: JobState | None,
    exit_record: ExitRecord | None,
    aborts: Sequence[Mapping[str, Any]],
    line: str,
    ranks: Sequence[RankRecord] = (),
    *,
    restarts: bool = True,
) -> Failure:
    """Why a run without a measurement failed.

    `aborts` are the abort-rNNN.json of its ranks, the earliest first; `line` is the line of its log that says why.
    `ranks` are the ends of its ranks, the earliest first. `restarts`: EXIT_INTERRUPTED says that it wrote a
    checkpoint.
    """
    job_nodes = answer.nodes if answer and answer.nodes else expand_hosts(exit_record.nodelist if exit_record else "")
    cause = _first_cause(aborts, ranks)
    kind, evidence = _class_and_evidence(answer, exit_record, cause, line, restarts)
    # Who stalls is not known: all ranks of a stalled run are ended.
    first = _first_to_fail(ranks, exit_record.rc if exit_record else 0)
    if first and "rank" not in (cause or {}) and kind not in {*_OUTSIDE, ErrorCode.STALLED}:
        told = cause is not None and not causes.is_lost_connection(cause["message"])
        kind, evidence = _named(kind, evidence, line, first, ranks, told=told)
    reported = cause.get("nodes") if cause else None
    # Version 0.1 wrote the nodes into the message alone, and a log line is all that Slurm or MPI leave.
    named = reported if isinstance(reported, list) and reported else list(causes.nodes(evidence))
    if kind == "node_failure" and causes.is_no_answer(evidence) and 1 < len(job_nodes) <= len(set(named)):
        kind = "launch"  # srun reached none of the nodes: not all of them are broken
    return failure(kind, evidence, _bad_nodes(kind, map(str, named), job_nodes))


def _first_to_fail(ranks: Iterable[RankRecord], code: int) -> list[RankRecord]:
    """The rank that failed first, or those that failed together in the same way; empty if none failed.

    SIGTERM is how launchers end the others, so such an end comes last. `code` is that of the run, which its job script
    has from the rank that failed: an earlier rank with another code may have written its checkpoint. Of ranks that
    ended together, those whose end may follow from another's come last, too.
    """
    failed = [rank for rank in ranks if rank.rc]
    failed = [rank for rank in failed if rank.signal != signal.SIGTERM] or failed
    failed = [rank for rank in failed if rank.rc == code] or failed
    together = [rank for rank in failed if rank.end <= min(each.end for each in failed) + _TOGETHER_S]
    together = [rank for rank in together if not _may_follow(rank)] or together
    if not together:
        return []
    first = min(together, key=lambda rank: rank.end)
    return [rank for rank in together if (rank.rc, rank.signal) == (first.rc, first.signal)]


def _may_follow(rank: RankRecord) -> bool:
    """Whether a rank may have ended because it lost another: by an exception, or aborted by PyTorch's watchdog."""
    return rank.rc == 1 or rank.signal == signal.SIGABRT


def _named(
    kind: str, evidence: str, line: str, first: Sequence[RankRecord], ranks: Iterable[RankRecord], *, told: bool
) -> tuple[str, str]:
    """The class and evidence of a failure with the rank that failed first, its node, and how it ended.

    `told`: a rank's own framework wrote down why it ended, and that is no lost connection.
    """
    said = causes.rank(line)
    first = [rank for rank in first if rank.rank == said] or first
    one = first[0]
    # An exception is not that of a rank that a signal or an exit code of its own ended, if others may have raised it.
    # A rank that lost its connection need not have a record: its launcher may end it before it has written one.
    others = not _may_follow(one) and (
        one.signal == signal.SIGKILL or causes.is_lost_connection(line) or any(_may_follow(rank) for rank in ranks)
    )
    if kind in ("exit_code", "signal") or (others and not told and kind in _OF_OTHERS):
        # The launcher's own code says how it ended the other ranks.
        how = f"signal {one.signal}" if one.signal else f"exit code {one.rc}"
        text = f"{_who(first)} ended with {how}"
        return "signal" if one.signal else "exit_code", f"{text}: {line}" if line else text
    who = f"{_who(first)} ended together" if len(first) > 1 else _who(first)
    return kind, f"{evidence} ({who})" if evidence else who


def _who(ranks: Sequence[RankRecord]) -> str:
    """`rank 3 on n2`, or `ranks 0, 1, 3 on n1, n2`; long lists are cut."""
    numbers = sorted(rank.rank for rank in ranks)
    hosts = list(dict.fromkeys(rank.host for rank in sorted(ranks, key=lambda rank: rank.rank)))
    return f"rank{'s' * (len(numbers) > 1)} {_cut(numbers)} on {_cut(hosts)}"


def _cut(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def failure(kind: str, evidence: str, nodes: Iterable[str] = ()) -> Failure:
    """A Failure of that class, with its hint."""
    return Failure(kind, evidence, FAILURE_CLASSES[kind].hint, tuple(nodes))


def cancelled_by_slurm(line: str) -> bool:
    """Whether a log's line says that Slurm itself cancelled the job for its memory: then the run failed."""
    return re.search(r"exceeded (?:job |step |virtual )*memory limit", line, re.IGNORECASE) is not None


def _class_and_evidence(
    answer: JobState | None,
    exit_record: ExitRecord | None,
    abort: Mapping[str, Any] | None,
    line: str,
    restarts: bool,
) -> tuple[str, str]:
    code = str(abort["code"]) if abort else ""
    if abort and code in FAILURE_CLASSES and code != ErrorCode.STALLED:
        return code, _abort_text(abort)
    by_log = causes.class_of(line)
    interrupted = restarts and EXIT_INTERRUPTED in (exit_record and exit_record.rc, answer and answer.exit_code)
    by_slurm = next((_WORDS[word] for word in (answer.word, answer.reason) if word in _WORDS), "") if answer else ""
    # A job that wrote its checkpoint at the time limit was interrupted: it can continue from there.
    if by_log == "reservation_ended":
        return by_log, line  # Slurm's word for it is TIMEOUT
    if answer and by_slurm and not (by_slurm == "timeout" and interrupted):
        if by_log == by_slurm:
            return by_slurm, line
        return by_slurm, "; the log ends with: ".join(filter(None, (_slurm_text(answer), line)))
    if by_log in _OUTSIDE and not (by_log == "timeout" and interrupted):
        return by_log, line
    if abort and code in FAILURE_CLASSES:
        return code, _abort_text(abort)
    if interrupted:
        return "interrupted", line
    if exit_record is None and answer is None:
        return "lost", line
    if abort:
        text = _abort_text(abort)
        # PyTorch's error files do not say which rank it was, and the line of a command need not.
        said = str(abort["message"]) in line and ("rank" not in abort or ERROR_PREFIX in line)
        return _known(causes.class_of(text)) or "traceback", line if said else text
    if exit_record.rc == 0 if exit_record else answer and answer.exit_code == 0 and not answer.signal:
        return "no_measurement", line
    if _known(by_log):
        return by_log, line
    number = (exit_record.signal if exit_record else 0) or (answer.signal if answer else 0)
    if number:
        return "signal", f"signal {number}: {line}" if line else f"signal {number}"
    rc = exit_record.rc if exit_record else answer.exit_code if answer else None
    # bash exits with 126 if it cannot run the command and with 127 if it does not find it.
    return "launch" if rc in (126, 127) else "exit_code", f"exit code {rc}: {line}" if line else f"exit code {rc}"


def _known(kind: str) -> str:
    return kind if kind in FAILURE_CLASSES else ""


def _slurm_text(answer: JobState) -> str:
    return f"{answer.word} ({answer.reason})" if answer.reason else answer.word


def _abort_text(abort: Mapping[str, Any]) -> str:
    where = f" (rank {abort['rank']} on {abort['host']})" if "rank" in abort and "host" in abort else ""
    return f"{abort.get('message', '')}{where}"


def _first_cause(aborts: Sequence[Mapping[str, Any]], ranks: Iterable[RankRecord]) -> Mapping[str, Any] | None:
    """The first rank that gave up for a reason other than the end of another rank."""
    # A signal, or an exit code of its own: no exception of another rank is the reason.
    own = (rank for rank in ranks if rank.rc and rank.signal != signal.SIGTERM and not _may_follow(rank))
    ended = min((rank.end for rank in own), default=inf)
    for abort in aborts:
        # An exception of a rank (code unexpected) that comes later may say in any words that it lost that rank.
        late = abort.get("code") == ErrorCode.UNEXPECTED and "rank" in abort and float(abort.get("time", 0)) >= ended
        if "code" in abort and not late and not causes.is_consequence(str(abort.get("message", ""))):
            return {"message": "", **abort}
    return None


def _bad_nodes(kind: str, named: Iterable[str], job_nodes: Sequence[str]) -> Iterator[str]:
    """The job's nodes among the `named` ones, which are reported as bad, by the scheduler's names."""
    if kind not in ("node_failure", "boot_failure", ErrorCode.STALLED):
        return
    short = {name.partition(".")[0] for name in named}
    if kind != ErrorCode.STALLED and not short and len(job_nodes) == 1:
        yield job_nodes[0]
    for node in job_nodes:
        if node.partition(".")[0] in short:
            yield node
