"""Completion in the real bash, zsh and fish, and the answers that these shells get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control import shells
from tests.control.shells import Shell, environment
from tests.control.test_cli import on_a_login_node
from tests.running import hpcjobs

# What is typed (TAB is the tab key), and the words that the command then gets.
TYPED = [
    ("staTAB", ["status"]),
    ("comTABfiTAB", ["completion", "fish"]),
    ("clTABshTABjeTAB", ["cluster", "show", "jean-zay"]),
    ("sweep --expTABchTAB", ["sweep", "--experiment", "chexnet"]),
    ("sweep --experiment=chTAB", ["sweep", "--experiment=chexnet"]),
    ("sweep --experiment ./hTAB", ["sweep", "--experiment", "./here.yaml"]),
    ("sweep --out=swTAB", ["sweep", "--out=sweeps/"]),
    ("sweep --set model.naTAB", ["sweep", "--set", "model.name="]),
    ("sweep --set train.xTABtTAB", ["sweep", "--set", "train.xla=true"]),
    ("sweep --set train.precision=floTAB", ["sweep", "--set", "train.precision=float32"]),
    ("sweep --set=train.precision=float32,mixed_fTAB", ["sweep", "--set=train.precision=float32,mixed_float16"]),
    ("check --set data.dir=./sweeps/itTAB", ["check", "--set", "data.dir=./sweeps/it$ 5/"]),
    ("status ouTAB", ["status", "our study"]),
    ("status 'ouTAB", ["status", "our study"]),
    ('status "ouTAB', ["status", "our study"]),
    ("status our\\ sTAB", ["status", "our study"]),
    ("report --against='ouTAB", ["report", "--against=our study"]),
    ("resume sweeps/iTAB", ["resume", "sweeps/it$ 5"]),
    ("predict afTAB", ["predict", "after:noon"]),
    ("predict after:nTAB", ["predict", "after:noon"]),
    ("collect ~/afTAB", ["collect", "{home}/after:noon"]),
    ("cancel after:noon g0002TAB", ["cancel", "after:noon", "g0002-r01"]),
    ("report --reference deTAB", ["report", "--reference", "dell-c4140-v100-2019"]),
    ("sweep --gpus 1TAB", ["sweep", "--gpus", "1"]),
    ("swep --clTAB", ["swep", "--cl"]),
    ("status nowhere/TAB", ["status", "nowhere/"]),
    ("status 2>/dev/null ouTAB", ["status", "our study"]),
    ("status >>log < here.yaml ouTAB", ["status", "our study"]),
    ("status our\\ study>log ouTAB", ["status", "our study", "ou"]),
    ("status sweeps/eaTAB 2>heTAB", ["status", "sweeps/early"]),
    ("status \\>ouTAB", ["status", ">ou"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sweeps with names that a shell must quote, and files."""
    for name in ("our study", "after:noon", "sweeps/early", "sweeps/it$ 5"):
        for run in ("g0001-r01", "g0002-r01"):
            (tmp_path / name / "runs" / run).mkdir(parents=True)
        (tmp_path / name / "sweep.yaml").write_text("version: 1\n")
    (tmp_path / "no sweep").mkdir()
    (tmp_path / "here.yaml").write_text("name: here\n")
    return tmp_path


@pytest.fixture(params=shells.NAMES)
def shell(request: pytest.FixtureRequest, folder: Path) -> Iterator[Shell]:
    with Shell(request.param, folder) as shell:
        yield shell


def test_the_tab_key(shell: Shell, folder: Path) -> None:
    for typed, words in TYPED:
        expected = [word.format(home=folder) for word in words]
        assert shell.typed(f"hpcjobs {typed}".replace("TAB", "\t")) == expected, typed


def test_a_command_that_is_not_first_on_the_line(shell: Shell) -> None:
    assert shell.typed("true && A=b hpcjobs stat\t") == ["status"]


def test_only_the_typed_program_runs_even_if_its_folder_has_an_equals_sign(shell: Shell, folder: Path) -> None:
    """`env` would take the folder for an assignment, and the next word for the program."""
    program = folder / "a=b" / "hpcjobs"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
[ "$_HPCJOBS_COMPLETE" ] && exec {Path(sys.executable).parent}/hpcjobs
printf '%s\\n' "$@" END >words
"""
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "cancel").write_text(f"#!/bin/sh\ntouch {folder}/ran\n")
    for path in (program, folder / "bin" / "cancel"):
        path.chmod(0o755)
    for place in ("./", "~/", "c=d ./"):
        assert shell.typed(f"{place}a=b/hpcjobs cancel af\t") == ["cancel", "after:noon"], place
        assert shell.typed(f"{place}a=b/hpcjobs cancel \t") == ["cancel"], place
    assert not (folder / "ran").exists()


def test_a_program_of_an_unknown_user_prints_nothing(shell: Shell) -> None:
    assert shell.typed("true || ~nosuch/hpcjobs stat\t; hpcjobs") == []
    assert b"no such user" not in shell.seen


def test_an_alias_is_completed_in_zsh_and_fish(folder: Path) -> None:
    for name, word in (("bash", "sta"), ("zsh", "status"), ("fish", "status")):
        with Shell(name, folder) as shell:
            assert shell.typed("alias hj=hpcjobs; hpcjobs") == []
            assert shell.typed("hj sta\t") == [word], name
    assert "bash completes only the name hpcjobs" in hpcjobs("completion", "--help", cwd=folder).stdout


def test_it_works_in_a_bash_with_set_u(folder: Path) -> None:
    with Shell("bash", folder, "source <(env hpcjobs completion bash); set -u; unset HOME\n") as shell:
        assert shell.typed("hpcjobs stat\t") == ["status"]
        assert b"unbound" not in shell.seen
        assert shell.typed("true ~/bin/hpcjobs stat\t; hpcjobs") == []
        assert b"unbound" not in shell.seen


def test_a_sweep_whose_name_looks_like_an_option(tmp_path: Path) -> None:
    """fish offers a word that begins with a dot only after the dot is typed."""
    (tmp_path / "-x").mkdir()
    (tmp_path / "-x" / "sweep.yaml").write_text("version: 1\n")
    for name in shells.NAMES:
        with Shell(name, tmp_path) as shell:
            assert shell.typed(f"hpcjobs status {'./' if name == 'fish' else ''}\t") == ["status", "./-x"], name
            assert shell.typed("hpcjobs status -- -\t") == ["status", "--", "-x"], name


@pytest.mark.parametrize(
    ("name", "place", "rc"),
    [
        ("zsh", "site-functions/_hpcjobs", "fpath=($HOME/site-functions $fpath); autoload -U compinit; compinit -u -D"),
        ("fish", "completions/hpcjobs.fish", "set -p fish_complete_path $HOME/completions"),
    ],
)
def test_a_script_in_the_folder_where_the_shell_looks_for_it(name: str, place: str, rc: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    path.write_text(hpcjobs("completion", name, cwd=tmp_path).stdout)
    with Shell(name, tmp_path, rc) as shell:
        assert shell.typed("hpcjobs stat\t") == ["status"]


def completions(line: str, folder: Path, shell: str = "fish", **env: str) -> dict[str, str]:
    """The answer to a shell for a line up to the cursor: names, each with its description."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcjobs"],
        cwd=folder,
        env={**environment(folder), "_HPCJOBS_COMPLETE": f"{shell}_complete", "COMP_LINE": f"hpcjobs {line}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(text.partition("\t")[::2] for text in done.stdout.splitlines() if text)


def test_names_come_with_descriptions(folder: Path) -> None:
    assert completions("pre", folder) == {"predict": "Fit a model: sizes not run, GPU-hours, time to train."}
    assert completions("sweep --dr", folder) == {"--dry-run": "Print plan and scripts; write and submit nothing."}
    assert completions("sweep --set seed", folder) == {"seed=": "Seed of repeat 1; repeat r has seed + r - 1."}
    (folder / "clusters").mkdir()
    (folder / "clusters" / "virtual.yaml").write_text("not: a\nprofile")
    assert completions("data synth --cluster ", folder) == {
        **dict.fromkeys(["c4140", "dgx1", "jean-zay", "kebnekaise", "local"], "from hpcjobs"),
        "virtual": "from working folder",
    }


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("status ", ["after:noon", "our study", "sweeps/early", "sweeps/it$ 5"]),
        ("status sweeps/", ["sweeps/early", "sweeps/it$ 5"]),
        ("status n", ["no sweep/"]),  # not a sweep, but one may be in it
        ("report --against h", ["here.yaml"]),
        ("collect --logs h", ["here.yaml"]),
        ("collect h", []),
        ("collect --logs --format n", ["nccl-tests", "nemo"]),
        ("cancel after:noon ", ["g0001-r01", "g0002-r01"]),
        ("cancel after:noon g0001-r01 ", ["g0002-r01"]),
        ("cancel nowhere ", []),
        ("sweep --set lr.s", ["lr.scaling="]),
        ("sweep --set lr.scaling=none --set lr.s", []),
        ("sweep --set lr.scaling=", ["none", "linear", "sqrt"]),
        ("sweep --set train.epochs=", []),
        ("sweep --set nothing=", []),
        ("init --base d", ["demo"]),
        ("init --device ", ["cpu", "gpu"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("cluster ", ["list", "show", "detect", "schema"]),
        ("swep ", []),
        ("--version --j", ["--json"]),
        ("sweep --dry-run --dry", []),
        ("status 2>&1 o", ["our study"]),
        ("status &> log o", ["our study"]),
        ("status >h", ["here.yaml"]),
        ("status 2> h", ["here.yaml"]),
        ("status '2>' h", []),
        ("collect --logs <(cat) h", ["here.yaml"]),
    ],
)
def test_names(line: str, names: list[str], folder: Path) -> None:
    found = list(completions(line, folder))
    if line.endswith("="):
        names = [f"{line.split()[-1]}{name}" for name in names]
    assert sorted(found) == sorted(names)


def test_names_that_need_care(folder: Path) -> None:
    (folder / "experiments").mkdir()
    for name in ("two\nlines", os.fsdecode(b"no\xffutf8"), "\x1b[2J", "fine"):
        (folder / "experiments" / f"{name}.yaml").touch()
    assert list(completions("sweep --experiment ", folder)) == ["chexnet", "demo", "fine"]
    for sweep in ("so!", "so so", "-x"):
        (folder / sweep).mkdir()
        (folder / sweep / "sweep.yaml").write_text("version: 1\n")
    # In double quotes ! means history to bash, and a backslash before it stays.
    assert list(completions('status "so', folder, "bash")) == ["so so"]
    assert list(completions("status 'so", folder, "bash")) == ["so so", "so!"]
    assert list(completions("status so", folder, "bash")) == ["so\\ so", "so\\!"]
    assert {"./-x", "after:noon"} <= completions("status ", folder).keys()
    assert "-x" not in completions("status ", folder)
    (folder / "-x" / "runs" / "-y").mkdir(parents=True)
    assert list(completions("cancel ./-x ", folder)) == []  # no run is called ./-y
    assert list(completions("cancel -- -x -", folder)) == ["-y"]


def test_broken_files_give_no_names_and_print_nothing(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "sweep.yaml").write_text("{[ not yaml")
    assert list(completions("status ", tmp_path)) == [
        "study"
    ]  # only its name counts; `hpcjobs status study` reports the fault
    assert completions("cancel study ", tmp_path) == {}
    (tmp_path / "study" / "runs").write_text("a file")
    assert completions("cancel study ", tmp_path) == {}
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "sweeps").symlink_to("nowhere")
    (tmp_path / "two\nlines").mkdir()
    (tmp_path / os.fsdecode(b"no\xffutf8")).mkdir()
    (tmp_path / "experiments").write_text("a file")
    assert list(completions("status ", tmp_path)) == ["study"]
    assert completions("status loop/", tmp_path) == {}
    assert completions("status /proc/1/fd/0/", tmp_path) == {}
    assert list(completions("sweep --experiment ", tmp_path)) == ["chexnet", "demo"]
    assert completions("status 'stu\\", tmp_path) == {}


def test_a_removed_working_folder_prints_nothing(tmp_path: Path) -> None:
    gone = "mkdir gone; cd gone; rmdir ../gone; exec hpcjobs"
    env = {**environment(tmp_path), "_HPCJOBS_COMPLETE": "bash_complete", "COMP_LINE": "hpcjobs sweep --cluster c"}
    done = subprocess.run(["bash", "-c", gone], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == ""


def test_slurm_is_not_queried(tmp_path: Path) -> None:
    touch = f"touch {tmp_path}/queried"
    env = on_a_login_node(tmp_path, dict.fromkeys(("scontrol", "sinfo", "srun", "sacctmgr", "sbatch", "squeue"), touch))
    for line in ("sweep --cluster ", "sweep --partition ", "cluster detect --partition ", "status ", "init --base "):
        completions(line, tmp_path, PATH=env["PATH"])
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    "line", ["", "sweep --set ", "report --reference ", "predict ", "check --cluster ", "collect --format ", "init --"]
)
def test_nothing_heavy_is_imported(line: str, tmp_path: Path) -> None:
    code = (
        "import sys; from hpcjobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    env = {**environment(tmp_path), "_HPCJOBS_COMPLETE": "bash_complete", "COMP_LINE": f"hpcjobs {line}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "click" in done.stderr.split()
    heavy = {"tensorflow", "horovod", "numpy", "pandas", "scipy", "matplotlib", "submitit", "rich"}
    assert not heavy & set(done.stderr.split())


def test_an_unknown_shell_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in hpcjobs("completion", "tcsh", cwd=tmp_path, code=2).stderr
    text = hpcjobs("completion", "--help", cwd=tmp_path).stdout
    for place in ("~/.bashrc", "/etc/bash_completion.d/hpcjobs", "site-functions/_hpcjobs", "vendor_completions.d"):
        assert place in text
