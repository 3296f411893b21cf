"""`hpcjobs --version`, and with --json what a bug report needs; what cannot be found out is null."""

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
def test_json_of_nothing_is_a_mistake(words: tuple[str, ...], tmp_path: Path) -> None:
    done = hpcjobs(*words, cwd=tmp_path, code=2)
    assert "--json stands with --version, or behind a command" in done.stderr
    assert done.stdout == ""


def test_it_says_what_is_installed_in_each_half(tmp_path: Path) -> None:
    found = about(tmp_path)
    assert found["hpcjobs"] == package.__version__
    assert found["path"] == str(Path(package.__file__).parent)
    assert (found["python"], found["executable"]) == (platform.python_version(), sys.executable)
    assert found["control"]["click"] == metadata.version("click")
    assert {"jinja2", "msgspec", "pandas", "pyyaml", "scipy", "submitit"} <= found["control"].keys()
    assert {"tensorflow", "horovod", "mpi4py", "numpy", "mlperf-logging"} <= found["compute"].keys()
    assert "tensorflow" not in found["control"]


def test_a_package_that_is_not_installed_is_null(tmp_path: Path) -> None:
    """A stand-in for a login node without the compute half: metadata that requires what nobody has."""
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


def test_slurm_and_mpi_say_their_own_versions(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, {"sbatch": "echo slurm-wlm 22.05.8"})
    (tmp_path / "bin" / "mpirun").write_text("#!/bin/sh\necho; echo 'mpirun (Open MPI) 4.1.4'; echo more\n")
    (tmp_path / "bin" / "mpirun").chmod(0o755)
    found = about(tmp_path, env)
    assert (found["slurm"], found["mpirun"]) == ("22.05.8", "mpirun (Open MPI) 4.1.4")


@pytest.mark.parametrize("body", ["sleep 60", "exit 1", "printf '\\377\\n' >&2", None])
def test_programs_that_are_away_or_broken_are_null(body: str | None, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    if body is not None:
        for name in ("sbatch", "mpirun", "git"):
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n[ $0 = {tmp_path}/bin/git ] && exit 1\n{body}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        (tmp_path / "bin" / "sleep").symlink_to(shutil.which("sleep") or "")
    found = about(tmp_path, {"PATH": str(tmp_path / "bin")})
    assert [found[key] for key in ("slurm", "mpirun", "git", "shell")] == [None] * 4


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


def test_the_commit_is_that_of_its_own_checkout_alone(tmp_path: Path) -> None:
    root = Path(package.__file__).parents[1]

    def git(*words: str, cwd: Path = root) -> str:
        return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()

    if (root / ".git").exists():
        assert about(tmp_path)["git"]["commit"] == git("rev-parse", "HEAD")
        assert about(tmp_path)["git"]["clean"] == (git("status", "--porcelain") == "")
    # Installed below another project's checkout.
    git("init", "--quiet", cwd=tmp_path)
    git("-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "--allow-empty", "-m", "x", cwd=tmp_path)
    shutil.copytree(root / "hpcjobs", tmp_path / "lib" / "hpcjobs", ignore=shutil.ignore_patterns("__pycache__"))
    found = about(tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path / "lib")})
    assert found["path"] == str(tmp_path / "lib" / "hpcjobs")
    assert found["git"] is None


def test_nothing_of_the_environment_is_told_but_the_shell(tmp_path: Path) -> None:
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
