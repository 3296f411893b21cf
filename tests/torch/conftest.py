"""PyTorch's examples on the virtual cluster. hpcjobs runs in .venv, as always, and the ranks in .venv-torch."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.running import hpcjobs, status
from tests.slurm.conftest import Slurm, _no_job_left, cluster, profile  # noqa: F401 (two are fixtures)

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "torch_ddp"
VENV = ROOT / ".venv-torch"

# How the two starts run the example's script.
EXPERIMENTS = {"rank": "ddp.yaml", "node": "ddp-torchrun.yaml"}


@dataclasses.dataclass(frozen=True)
class Site:
    """A copy of examples/torch_ddp in a folder of the test's own, and the virtual cluster."""

    folder: Path
    cluster: Slurm

    def do(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of hpcjobs in the folder."""
        return hpcjobs(*words, cwd=self.folder, env=self.cluster.env, code=code)

    def runs(self) -> dict[str, dict[str, Any]]:
        """`hpcjobs status` by run."""
        return status("o", cwd=self.folder, env=self.cluster.env, code=None)

    def profile(self, **changes: Any) -> str:
        """A profile of the virtual cluster as a user of PyTorch writes it. Returns its path."""
        path = f'export PATH="{VENV}/bin:$PATH"'
        return profile(self.folder, prologue=path, collect={"job": False}, **changes)

    def endless(self, start: str) -> str:
        """The experiment of that start, with as many steps as the file `steps` says. Returns its path."""
        (self.folder / "steps").write_text("1000000")
        experiment = yaml.safe_load((self.folder / EXPERIMENTS[start]).read_text())
        experiment["command"] = ["bash", "-c", 'exec "$@" --steps "$(cat steps)"', "bash", *experiment["command"]]
        (self.folder / "endless.yaml").write_text(yaml.safe_dump({**experiment, "name": "endless"}))
        return "endless.yaml"

    def ranks(self) -> dict[int, int]:
        """The pids of the live ranks of this folder's runs, on all nodes, by rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                program, *words = (entry / "cmdline").read_text(errors="replace").split("\0")
                variables = (entry / "environ").read_text(errors="replace").split("\0")
            except OSError:
                continue
            environ = dict(variable.partition("=")[::2] for variable in variables)
            # Of rank.sh, torchrun and Python, each of which has train.py among its words, only a rank has it first.
            script = next((word for word in words if not word.startswith("-")), "")
            if (
                "python" in program
                and script == "train.py"
                and environ.get("HPCJOBS_RUN_DIR", "").startswith(f"{self.folder}/o/")
            ):
                found[int(environ["RANK"])] = int(entry.name)
        return found


@pytest.fixture
def site(tmp_path: Path, cluster: Slurm) -> Site:  # noqa: F811
    if not (VENV / "bin" / "torchrun").exists():
        pytest.skip("PyTorch is not installed: run `make setup-torch`")
    os.environ.pop("PYTHONPATH", None)
    folder = tmp_path / "torch_ddp"
    shutil.copytree(EXAMPLE, folder)
    return Site(folder, cluster)
