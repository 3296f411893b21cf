"""`hpcjobs --version`, and with --json the facts for a bug report; what cannot be found out is null."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import hpcjobs as package
from hpcjobs.base import provenance
from tests.control.test_cli import on_a_login_node
from tests.running import hpcjobs


def about(cwd: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `hpcjobs --version --json` prints."""
    done = hpcjobs("--version", "--json", cwd=cwd, env=env)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_version_alone_is_a_line(tmp_path: Path) -> None:
    assert hpcjobs("--version", cwd=tmp_path).stdout == f"hpcjobs {package.__version__}\n"


def test_the_order_of_the_flags_does_not_matter(tmp_path: Path) -> None:
    assert json.loads(hpcjobs("--json", "--version", cwd=tmp_path).stdout) == about(tmp_path)


@pytest.mark.parametrize("words", [("--json",), ("--json", "cluster", "list")])
def test_json_alone_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    done = hpcjobs(*words, cwd=tmp_path, code=2)
    assert "--json needs --version, or a command before it" in done.stderr
    assert done.stdout == ""


def test_it_lists_the_packages_of_each_half(tmp_path: Path) -> None:
    found = about(tmp_path)
    assert found["hpcjobs"] == package.__version__
    assert found["path"] == str(Path(package.__file__).parent)
    assert (found["python"], found["executable"]) == (platform.python_version(), sys.executable)
    assert found["control"]["click"] == metadata.version("click")
    assert {"jinja2", "msgspec", "pandas", "pyyaml", "scipy", "submitit"} <= found["control"].keys()
    assert {"tensorflow", "horovod", "mpi4py", "numpy", "mlperf-logging"} <= found["compute"].keys()
    assert "tensorflow" not in found["control"]


def test_a_package_that_is_not_installed_is_null(tmp_path: Path) -> None:
    """Imitates a login node without the compute half, by metadata that require packages that do not exist."""
    own = tmp_path / "hpcjobs-9.dist-info"
    own.mkdir()
    lines = (
        "Metadata-Version: 2.1",
        "Name: hpcjobs",
        "Version: 9",
        "Requires-Dist: click>=8",
        "Requires-Dist: no.such-one",
    )
    (own / "METADATA").write_text("\n".join([*lines, "Requires-Dist: horovod9==1; extra == 'train'", ""]))
    found = about(tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)})
    assert found["control"] == {"click": metadata.version("click"), "no.such-one": None}
    assert found["compute"] == {"horovod9": None}


def test_the_versions_of_slurm_and_mpi(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, {"sbatch": "echo slurm-wlm 22.05.8"})
    (tmp_path / "bin" / "mpirun").write_text("#!/bin/sh\necho; echo 'mpirun (Open MPI) 4.1.4'; echo more\n")
    (tmp_path / "bin" / "mpirun").chmod(0o755)
    found = about(tmp_path, env)
    assert (found["slurm"], found["mpirun"], found["errors"]) == ("22.05.8", "mpirun (Open MPI) 4.1.4", {})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sleep 60", "no answer in 5 s"),
        ("exit 1", "exit 1"),
        ("echo >&2; echo 'error: no slurm.conf, token=sesame' >&2; exit 3", "exit 3: error: no slurm.conf, token=***"),
        ("kill -9 $$", "signal 9"),
        ("printf '\\377\\n' >&2", "exit 0: \ufffd"),
        ("#!/nowhere/sh", "cannot be run: No such file or directory"),
        (None, None),
    ],
)
def test_missing_or_broken_programs_are_null_and_errors_says_why(
    body: str | None, error: str | None, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    if body is not None:
        for name in ("sbatch", "mpirun", "git"):
            head = "" if body.startswith("#!") else f"#!/bin/sh\n[ $0 = {tmp_path}/bin/git ] && exit 1\n"
            (tmp_path / "bin" / name).write_text(f"{head}{body}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "bin" / "sleep").symlink_to(shutil.which("sleep") or "")
    found = about(tmp_path, {"PATH": str(tmp_path / "bin")})
    assert [found[key] for key in ("slurm", "mpirun", "git", "shell")] == [None] * 4
    assert found["errors"] == ({"sbatch": error, "mpirun": error} if error else {})


def test_the_default_cluster_and_the_files_that_name_it(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    assert (about(tmp_path, env)["default_cluster"], about(tmp_path, env)["config_files"]) == (None, [])
    config = tmp_path / "config" / "hpcjobs" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("cluster: c4140\n")
    found = about(tmp_path, env)
    assert (found["default_cluster"], found["config_files"]) == ("c4140", [str(config)])
    config.write_text("clutser: [c4140\n")
    found = about(tmp_path, env)
    assert (found["default_cluster"], found["config_files"]) == (None, [str(config)])


def git(cwd: Path, *words: str) -> str:
    """The output of git in a folder, without variables that would point it to another checkout."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(["git", *words], cwd=cwd, env=env, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> str:
    """Make the folder a checkout and commit its files; returns the commit."""
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "--allow-empty", "-m", str(folder))
    return git(folder, "rev-parse", "HEAD")


def copied(folder: Path) -> dict[str, str]:
    """Copy the package into a folder; returns an environment in which this copy runs."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(package.__file__).parent, folder / "hpcjobs", ignore=ignore)
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def test_the_commit_is_that_of_its_own_checkout(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    env = copied(own)
    other.mkdir()
    its, _ = commit(own), commit(other)
    assert about(tmp_path, env)["git"] == {"commit": its, "clean": True}
    # A git hook of another repository sets these variables.
    pointed = {"GIT_DIR": f"{other}/.git", "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": f"{other}/.git/index"}
    assert about(tmp_path, {**env, **pointed})["git"] == {"commit": its, "clean": True}
    (own / "hpcjobs" / "new.py").touch()
    assert about(other, {**env, **pointed})["git"] == {"commit": its, "clean": False}


def test_a_checkout_around_an_installation_is_not_its_own(tmp_path: Path) -> None:
    env = copied(tmp_path / "lib")
    commit(tmp_path)
    found = about(tmp_path, env)
    assert found["path"] == str(tmp_path / "lib" / "hpcjobs")
    assert found["git"] is None


def test_a_sweep_comes_from_the_checkout_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "other"):
        (tmp_path / name).mkdir()
        commit(tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("GIT_DIR", f"{tmp_path}/other/.git")
    assert provenance.provenance([], {})["cwd_git"]["commit"] == git(tmp_path / "here", "rev-parse", "HEAD")


def test_it_contains_no_environment_variable_but_shell(tmp_path: Path) -> None:
    env = {**os.environ, "SHELL": "/bin/zsh", "WANDB_API_KEY": "sesame", "SBATCH_ACCOUNT": "sesame"}
    done = hpcjobs("--version", "--json", cwd=tmp_path, env=env)
    assert json.loads(done.stdout)["shell"] == "/bin/zsh"
    assert "sesame" not in done.stdout


def test_it_imports_neither_half() -> None:
    code = (
        "import sys; sys.argv = ['hpcjobs', '--version', '--json']\n"
        "from hpcjobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "horovod", "mpi4py", "numpy", "pandas", "scipy", "matplotlib", "submitit", "rich", "jinja2"}
    assert not heavy & set(done.stderr.split())
