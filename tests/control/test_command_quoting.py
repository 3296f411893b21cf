"""What a process of a command gets is what was given, byte by byte, or it is refused with a reason.

Words go through sweep.yaml, a rendered script and bash; some through the command line and a launcher, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcjobs.base.errors import InputError
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import profiles, read_yaml
from hpcjobs.config.cluster import Container
from hpcjobs.config.commented import commented
from hpcjobs.engine import sweep
from hpcjobs.engine.folder import scripts, write_folder
from hpcjobs.jobs.arms import LONGEST_WORD
from hpcjobs.jobs.render import script
from hpcjobs.plan.planning import make_plan, parameter_grid
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import experiment_in
from tests.control.odd_words import NASTY
from tests.running import PATIENCE_S, hpcjobs

ODD = [*NASTY, "{}", "{gpus}", "}{", "{{x}}", "a\nb", "\n", "\r\n", "\t", "\x1b[31m", "\x7f", "\x85", "\ufeffx", "--", "-", "=", "~", "\ud7ff", "'\n'", "\\n\n", "$'\\x41'\n", "001", "1e5", "yes", "null"]  # fmt: skip
# Any word that a process can get: the zero byte ends an argument.
words = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
)
commands = st.lists(words, max_size=5)
# Writes its arguments, each with a zero byte at its end.
RECORDER = """#!/bin/sh
exec >"$HPCJOBS_ATTEMPT_DIR/argv-${RANK-alone}"
[ $# = 0 ] || printf '%s\\0' "$@"
"""


def escaped(text: str) -> str:
    """The text as a command has it: a brace is written twice."""
    return text.replace("{", "{{").replace("}", "}}")


def recorder(folder: Path) -> Path:
    path = folder / "record"
    path.write_text(RECORDER)
    path.chmod(0o755)
    return path


def recorded(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1]


def run_on_this_machine(folder: Path, given: Sequence[str], start: str) -> list[list[str]]:
    """The arguments of each process of a sweep of one run on two GPUs, whose plan was written and read again."""
    cluster = msgspec.structs.replace(profiles.cluster("local"), launcher="fork", launcher_options=())
    document = document_of([escaped(str(recorder(folder))), *map(escaped, given)])
    (variant,) = parameter_grid(document, [f"start={start}", f"workdir={folder}"])
    plan = make_plan([2], [variant], cluster, 1)
    where = SweepDir(folder / "o")
    first = sweep.Sweep("id", where, plan)
    write_folder(first, scripts(first), ["hpcjobs"])
    again = sweep.load(where.root)
    assert again.plan == plan
    done = subprocess.run(
        ["bash", where.script(again.plan.groups[0].name), "1"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    attempt = where.run("g0002-r01") / "a001"
    assert done.returncode == 0, done.stderr + (attempt / "job.log").read_text()
    assert not list(folder.rglob("pwned"))
    return [recorded(path) for path in sorted(attempt.glob("argv-*"))]


@pytest.mark.parametrize(("start", "processes"), [("once", 1), ("node", 1), ("rank", 2)])
def test_every_process_gets_the_words_that_were_given(start: str, processes: int) -> None:
    @settings(max_examples=6, deadline=None)
    @example(ODD)
    @example([])
    @example(["x" * LONGEST_WORD, "é" * (LONGEST_WORD // 2)])
    @given(commands)
    def arrive(given: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert run_on_this_machine(Path(folder), given, start) == [given] * processes

    arrive()


def array(text: str) -> list[str]:
    """The elements of `command=(...)` in a script, as bash reads them."""
    match = re.search(r"^ *command=\(.*?\)$", text, re.MULTILINE | re.DOTALL)
    assert match is not None
    lines = [
        "HPCJOBS_RANK_WRAPPER=/rank.sh MASTER_ADDR='n 1' MASTER_PORT='$(touch pwned)' HPCJOBS_RUN_DIR=$'a\\nb'",
        match[0],
        "printf '%s\\0' \"${command[@]}\"",
    ]
    done = subprocess.run(["bash"], input="\n".join(lines).encode(), capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


_IMAGE = Container(kind="apptainer", image="/images/a b.sif")


@settings(max_examples=40, deadline=None)
@example(ODD, "srun", Container())
@example(ODD, "mpirun", _IMAGE)
@given(commands, st.sampled_from(["srun", "mpirun"]), st.sampled_from([Container(), _IMAGE]))
def test_a_launcher_is_given_the_words_that_were_given(given: list[str], launcher: str, container: Container) -> None:
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), launcher=launcher, container=container)
    command = ["train", *map(escaped, given), *(f"{{head}}{escaped(word)}{{run_dir}}{{port}}" for word in given)]
    variants = parameter_grid(document_of(command), ["workdir=/scratch/code"])
    text = script(make_plan([8], variants, cluster, 2).groups[0], cluster, "261123120000abcd", Path("/scratch/study"))
    expected = ["train", *given, *(f"n 1{word}a\nb$(touch pwned)" for word in given)]
    found = array(text)
    assert found[:2] == ["bash", "/rank.sh"]
    assert found[-len(expected) :] == expected
    assert (found[2] == "apptainer") == (container is _IMAGE)


@settings(max_examples=40, deadline=None)
@example(ODD)
@given(commands)
def test_a_commented_file_means_the_same(given: list[str]) -> None:
    document = document_of(["train", *map(escaped, given)])
    document.data["params"] = {f"p{number}": word for number, word in enumerate(given)}
    experiment = experiment_in(document)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.yaml"
        path.write_text(commented(experiment, "Mine."), encoding="utf-8", newline="")
        assert experiment_in(read_yaml(path)) == experiment


@settings(max_examples=40, deadline=None)
@given(words.filter(lambda text: text and "," not in text and text == text.strip()))
def test_a_parameter_that_is_set_is_the_text_that_was_typed(text: str) -> None:
    (variant,) = parameter_grid(document_of(["train", "{params.any}"]), [f"params.any={text}"])
    cluster = profiles.cluster("c4140")
    rendered = script(make_plan([8], [variant], cluster, 1).groups[0], cluster, "261123120000abcd", Path("/s"))
    assert array(rendered) == ["bash", "/rank.sh", "train", text]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("a\udcffb", r"'a\\udcffb' is not UTF-8 and cannot stand in a job script"),
        ("x" * (LONGEST_WORD + 1), "a word of 131072 bytes: Linux gives a process at most 131071 bytes in one"),
    ],
)
def test_what_cannot_arrive_is_refused(word: str, says: str) -> None:
    cluster = profiles.cluster("c4140")
    group = make_plan([8], parameter_grid(document_of(["train", word]), []), cluster, 1).groups[0]
    with pytest.raises(InputError, match=says):
        script(group, cluster, "261123120000abcd", Path("/s"))


def test_a_zero_byte_is_refused_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text('name: x\ntrainer: command\ncommand: [train, "a\\0b"]\n')
    with pytest.raises(InputError, match=r"e\.yaml:3: key 'command'"):
        experiment_in(read_yaml(path))


@pytest.mark.parametrize("start", ["once", "rank"])
def test_words_arrive_from_the_command_line(start: str, tmp_path: Path) -> None:
    """With the real launcher of the profile `local` for start: rank."""
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [str(recorder(tmp_path)), *map(escaped, ODD)]
    flags = ("--gpus", "2", "--repeats", "1", "--cluster", "local", "--out", "o", "--set", "measure.format=none")
    hpcjobs("sweep", *flags, "--start", start, "--wait", "--", *command, cwd=tmp_path, env=env)
    attempt = tmp_path / "o" / "runs" / "g0002-r01" / "a001"
    found = {path.name: recorded(path) for path in attempt.glob("argv-*")}
    assert found == ({"argv-alone": ODD} if start == "once" else {"argv-0": ODD, "argv-1": ODD})
    assert not list(tmp_path.rglob("pwned"))


def test_bytes_that_are_not_utf8_are_refused_on_the_command_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "hpcjobs", "sweep", "--gpus", "1", "--cluster", "local", "--out", "o", "--", "true"]
    done = subprocess.run([*map(os.fsencode, line), b"a\xffb"], cwd=tmp_path, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert b"is not UTF-8 and cannot stand in a job script" in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
