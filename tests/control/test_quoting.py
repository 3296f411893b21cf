"""Every value arrives in the job script's commands unchanged, or is refused. Scripts are rendered and run by bash.

The launchers and `module` are fakes that record their arguments and environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpcjobs.base.contract import RunConfig, dump_run, load_run
from hpcjobs.base.errors import InputError
from hpcjobs.config import Experiment, profiles
from hpcjobs.jobs.render import script
from hpcjobs.plan.planning import make_plan, parameter_grid
from tests.control.odd_words import NASTY, rendered

RECORDER = """\
#!/bin/bash
printf '%s\\0' "$@" >>"$RECORDS/${0##*/}.argv"
env -0 >"$RECORDS/${0##*/}.env"
"""

words = st.one_of(st.sampled_from(NASTY), st.text(max_size=20))
one_line = words.filter(lambda text: text.isprintable() or text == "\u2028")
folder_names = one_line.filter(
    lambda text: text and text.strip(".") and not {"/", "\\"} & set(text) and len(text.encode(errors="replace")) < 200
)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with fakes of the launchers and of `module`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "mpirun", "module"):
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)
    return folder


class Ran:
    """What a run of a rendered script recorded."""

    def __init__(self, root: Path, tools: Path, **changes: object):
        group, self.run = rendered(root, "c4140", scheduler="local", **changes)
        self.records = root / "records"
        self.records.mkdir()
        env = {"PATH": f"{tools}:/usr/bin:/bin", "RECORDS": str(self.records), "SLURM_ARRAY_TASK_ID": "0"}
        env |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_NODELIST": 'n"[1-2]\\'}
        path = root / "scripts" / f"{group}.sbatch"
        self.done = subprocess.run(["bash", path, "1"], env=env, cwd=root, capture_output=True, text=True, timeout=60)
        self.attempt = root / "runs" / self.run / "a001"
        assert self.done.returncode == 0, self.done.stderr + (self.attempt / "job.log").read_text()
        executed = sorted(path.name for path in root.rglob("pwned"))
        assert not executed

    def argv(self, tool: str) -> list[str]:
        path = self.records / f"{tool}.argv"
        return path.read_text(encoding="utf-8").split("\0")[:-1] if path.exists() else []

    def env(self, tool: str) -> dict[str, str]:
        pairs = (self.records / f"{tool}.env").read_text(encoding="utf-8").split("\0")[:-1]
        return dict(pair.split("=", 1) for pair in pairs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    folder="$(touch pwned) 'x'",
    env={"A": "`id`"},
    options=["-x", "a b"],
    modules=["cuda/12 '"],
    python="/opt/py thon",
    launcher="srun",
)
@example(folder="%j", env={"A": "\\"}, options=["*", ""], modules=["$(id)"], python="-c", launcher="mpirun")
@given(
    folder=folder_names,
    env=st.dictionaries(st.sampled_from(["A", "NCCL_IB_HCA", "http_proxy", "Ab_9"]), one_line, max_size=3),
    options=st.lists(one_line, max_size=3),
    modules=st.lists(one_line, max_size=2),
    python=one_line.filter(bool),
    launcher=st.sampled_from(["srun", "mpirun"]),
)
def test_values_arrive_unchanged(
    tools: Path, folder: str, env: dict, options: list, modules: list, python: str, launcher: str
) -> None:
    with tempfile.TemporaryDirectory(dir=tools.parent) as parent:
        root = Path(parent) / folder
        ran = Ran(
            root,
            tools,
            env=env,
            launcher_options=tuple(options),
            modules=tuple(modules),
            python=python,
            launcher=launcher,
        )
        tail = [
            *options,
            python,
            "-m",
            "hpcjobs.chexnet.train",
            f"{root}/runs/{ran.run}/run.yaml",
            "--attempt",
            str(ran.attempt),
        ]
        assert ran.argv(launcher)[-len(tail) :] == tail
        assert ran.argv("module") == [word for module in modules for word in ("load", module)]
        got = ran.env(launcher)
        assert {name: got.get(name) for name in env} == env
        ended = json.loads((ran.attempt / "exit.json").read_text(encoding="utf-8"))
        assert (ended["rc"], ended["job"], ended["nodelist"]) == (0, "12_0", 'n"[1-2]\\')


PLACES = ("env", "option", "module", "python", "mpi_plugin", "partition", "sbatch", "folder")


def lines_with(text: str, where: str) -> list[str]:
    """The lines of a script with the text at this place."""
    changes = {
        "env": {"env": {"A": text}},
        "option": {"launcher_options": (text,)},
        "module": {"modules": (text,)},
        "python": {"python": text},
        "sbatch": {"sbatch": {"mail-user": text}},
    }.get(where, {where: text} if where in ("mpi_plugin", "partition") else {})
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), **changes)
    group = make_plan([1], parameter_grid(profiles.read(Experiment, "chexnet"), []), cluster, 1).groups[0]
    root = Path("/scratch") / text if where == "folder" else Path("/scratch/x")
    return script(group, cluster, "261123120000abcd", root).split("\n")


@settings(deadline=None, max_examples=80)
@example(text="a\nrm -rf /", where="partition")
@example(text="\x7f", where="folder")
@example(text="\udce9", where="folder")
@example(text="\udce9", where="env")
@example(text="a\nrm -rf /", where="python")
@example(text="\0", where="python")
@example(text="a\\b", where="sbatch")
@given(text=words.filter(lambda text: text.strip("/.") and "/" not in text), where=st.sampled_from(PLACES))
def test_a_value_becomes_one_word_of_one_line_or_is_refused(text: str, where: str) -> None:
    """The number of a script's lines does not depend on the value, and sbatch reads each directive's value back."""
    broken = any(letter == "\0" or 0xD800 <= ord(letter) < 0xE000 for letter in text)
    control = any(ord(letter) < 32 or ord(letter) == 127 for letter in text)
    # python is a word of a run's command, which may hold line breaks, too.
    if broken or (control and where != "python") or ("\\" in text and where in ("partition", "sbatch", "folder")):
        with pytest.raises(InputError):
            lines_with(text, where)
        return
    lines = lines_with(text, where)
    assert len(lines) == len(lines_with("x", where))
    directives = dict(sbatch_reads(line) for line in lines if line.startswith("#SBATCH"))
    output = f"/scratch/{text if where == 'folder' else 'x'}/slurm/"
    assert directives["output"] == output.replace("%", "%%") + "%A_%a.out"
    if where in ("partition", "sbatch"):
        assert directives["mail-user" if where == "sbatch" else where] == text


def sbatch_reads(line: str) -> tuple[str, str | None]:
    """(option, value) of a #SBATCH line as sbatch 22.05 reads it: quotes group, a backslash quotes the next character
    (also within quotes), and # begins a comment. tests/slurm/test_quoting.py tests sbatch itself."""
    rest, word, quote = line.removeprefix("#SBATCH").lstrip(), "", ""
    letters: Iterator[str] = iter(rest)
    for letter in letters:
        if letter == "\\":
            word += next(letters)
        elif quote:
            quote, word = ("", word) if letter == quote else (quote, word + letter)
        elif letter in "'\"":
            quote = letter
        elif letter.isspace() or letter == "#":
            break
        else:
            word += letter
    assert not quote
    assert not "".join(letters).strip(), "one option a line"
    option, equals, value = word.removeprefix("--").partition("=")
    return option, value if equals else None


@pytest.mark.parametrize(
    "name",
    ["run", "sweep", "attempt_dir", "command", "warned_at", "IFS", "POSIXLY_CORRECT", "UID", "RANDOM", "SECONDS"],
)
def test_a_variable_that_the_script_or_bash_uses_is_refused_in_env(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"env.{name}"):
        rendered(tmp_path, "c4140", env={name: "x"})


def test_the_scripts_own_variables_are_all_in_small_letters(tmp_path: Path) -> None:
    """So they cannot be variables of `env`, which must not be in small letters."""
    for launcher, scheduler in (("srun", "slurm"), ("mpirun", "local")):
        cluster = msgspec.structs.replace(profiles.cluster("c4140"), launcher=launcher, scheduler=scheduler, env={})
        group = make_plan([1], parameter_grid(profiles.read(Experiment, "chexnet"), []), cluster, 1).groups[0]
        text = re.sub(r"(?m)^\s*#.*$|'[^'\n]*'", "", script(group, cluster, "261123120000abcd", tmp_path))
        assigned = set(re.findall(r"(?<![-\w$=./:])(?<!\\ )([A-Za-z_]\w*)=(?!=)", text))
        assert {"run", "rc", "owner"} <= assigned
        assert {name for name in assigned if name != name.lower()} <= {"SLURM_TIME_FORMAT"}  # of one command


@settings(deadline=None)
@given(st.lists(words, min_size=3, max_size=3))
def test_run_yaml_reads_back_unchanged(texts: list[str]) -> None:
    config = RunConfig(
        sweep="s", run="r", params=texts[0], repeat=1, seed=1, gpus=1, nodes=1, tasks_per_node=1, cpus_per_task=1,
        device="cpu", data_dir=texts[1], experiment={"name": texts[2], "data": {texts[0]: texts[1]}},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(dump_run(config), encoding="utf-8")
        assert load_run(path) == config


def test_a_sweep_folder_whose_name_looks_like_an_option(tools: Path, tmp_path: Path) -> None:
    root = tmp_path / "-rf"
    ran = Ran(root, tools, launcher="mpirun", env={"A": os.environ.get("HOME", "")})
    assert ran.argv("mpirun")[-1] == str(ran.attempt)
