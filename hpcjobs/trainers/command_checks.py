"""What is wrong with the keys of a command's experiment, before anything is submitted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.config import Cluster
from hpcjobs.schedulers.factory import capabilities
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.placeholders import names

if TYPE_CHECKING:
    from hpcjobs.collect.pattern import Pattern

# Values of measure.format that are not formats of logs.
_NO_FORMATS = ("auto", "meter", "pattern", "none")


def pattern_of(about: Mapping[str, Any]) -> Pattern | None:
    """The pattern of a `measure` section, if it has one. Raises InputError if it is wrong."""
    if about["pattern"] is None:
        return None
    from hpcjobs.collect.pattern import Pattern

    return Pattern(
        about["pattern"],
        about["of"],
        "samples" if about["unit"] is None else about["unit"],
        about["warmup"],
        about["take"],
    )


def check_command(experiment: CommandExperiment) -> None:
    """Raises InputError if the command cannot be one."""
    first = experiment.command[0]
    if not first:
        raise InputError("the first word is empty: give a program", ("command",))
    if first.startswith("-"):
        raise InputError(
            f"command: the first word {first!r} is an option: give a program first; options of hpcjobs stand before --",
            ("command",),
        )
    if experiment.workdir == "":
        raise InputError("expected a folder, got '': leave the key out for the working folder", ("workdir",))


def check_measure(experiment: CommandExperiment) -> None:
    """Raises InputError if the keys of `measure` do not go together."""
    from hpcjobs.collect.reading import FORMATS

    about = experiment.measure
    if experiment.mode == "benchmark":
        if about.format not in ("auto", "meter"):
            raise InputError(
                f"mode benchmark needs the meter, and measure.format {about.format} does without: give auto or meter",
                ("measure", "format"),
            )
        if about.meter == "off":
            raise InputError(
                "mode benchmark needs the meter, and measure.meter is off: give auto", ("measure", "meter")
            )
    if about.format not in (*_NO_FORMATS, *FORMATS):
        known = nearest(about.format, [*_NO_FORMATS, *FORMATS])
        raise InputError(f"no format {about.format!r}: {known}", ("measure", "format"))
    if about.format == "pattern" and about.pattern is None:
        raise InputError("measure.format is pattern, but measure.pattern is missing", ("measure", "format"))
    if about.pattern is not None and about.format not in ("auto", "pattern"):
        why = f"measure.pattern is not used with measure.format {about.format}: give one of them"
        raise InputError(why, ("measure", "pattern"))
    # The other keys are those of a pattern, too, and are checked with one that is right.
    as_pattern = {**msgspec.to_builtins(about), "pattern": about.pattern or "(?P<throughput>1)"}
    try:
        pattern_of(as_pattern)
    except InputError as error:
        raise InputError(str(error), ("measure", *error.key)) from None


def check_start(experiment: CommandExperiment, cluster: Cluster) -> None:
    """Raises InputError where the profile's launcher cannot do what the experiment asks for."""
    start, launcher = experiment.start, cluster.launcher
    if launcher == "horovodrun" and start != "once":
        raise InputError(
            f"start: {start} needs launcher srun or mpirun, but cluster '{cluster.name}' has launcher horovodrun; with "
            "start: once, the command may begin with horovodrun itself"
        )
    if start == "once" and cluster.container.kind == "pyxis":
        raise InputError("start: once runs without srun, which container.kind pyxis needs: give start rank or node")


def check_rate(experiment: CommandExperiment) -> None:
    """Raises InputError if the log will give the time of a step alone, and it is no rate of the unit."""
    from hpcjobs.collect.pattern import TIMES
    from hpcjobs.collect.pattern_log import counts_batch

    pattern, batch = pattern_of(msgspec.to_builtins(experiment.measure)), experiment.batch
    if pattern is None or pattern.has("throughput", "samples") or pattern.unit == "steps":
        return
    time = next(group for group in TIMES if pattern.has(group))
    if not counts_batch(pattern.unit):
        raise InputError(
            f"measure.pattern: {time} is no rate of {pattern.unit}, because a batch counts samples: name a group "
            "throughput or samples",
            ("measure", "pattern"),
        )
    if batch.local is None and batch.global_ is None:
        raise InputError(
            f"measure.pattern: {time} is a rate only with the batch: give batch.local or batch.global, or unit steps",
            ("measure", "pattern"),
        )


def check_swept(experiments: Sequence[CommandExperiment]) -> None:
    """Raises InputError if the variants of a sweep differ in a parameter that the command does not use."""
    used = _placeholders(experiments[0])
    for key in sorted({key for each in experiments for key in each.params}):
        if len({each.params.get(key) for each in experiments}) > 1 and f"params.{key}" not in used:
            raise InputError(
                f"--set params.{key}: the command does not use {{params.{key}}}, so that all of its values would run "
                "the same"
            )


def unused(experiments: Sequence[CommandExperiment]) -> Iterator[str]:
    """Warnings about values that the command's words do not use."""
    used = _placeholders(experiments[0])
    for key in experiments[0].params:
        if f"params.{key}" not in used:
            yield f"params.{key} is given, but the command does not use {{params.{key}}}"
    for name, values in (
        ("batch.local", {each.batch.local for each in experiments}),
        ("batch.global", {each.batch.global_ for each in experiments}),
    ):
        if len(values) > 1 and not used & {"batch.local", "batch.global"}:
            yield (
                f"--set {name}: the command has no {{{name}}}, so only a script that reads HPCJOBS_LOCAL_BATCH knows "
                "the batch"
            )


def check_program(experiment: CommandExperiment, word: str, cluster: Cluster) -> None:
    """Raises InputError if runs on this machine would not find the program that the command begins with.

    `word` is the command's first word, or empty. Where a profile's keys may bring the program, it is not looked for.
    """
    brought = cluster.modules or cluster.prologue or "PATH" in cluster.env or cluster.container.kind != "none"
    if not word or brought or capabilities(cluster).compute_nodes:
        return
    workdir = Path(experiment.workdir or os.curdir)
    if "/" in word:
        if not (workdir / word).exists():
            raise InputError(f"command: {word}: no such file in {workdir}", ("command",))
    elif shutil.which(word) is None:
        lies = f": it lies in {workdir}, so begin the command with ./{word}, or name its interpreter"
        raise InputError(
            f"command: {word} is not found on PATH{lies if (workdir / word).is_file() else ''}", ("command",)
        )


def _placeholders(experiment: CommandExperiment) -> set[str]:
    return {name for word in experiment.command for name in names(word)}
