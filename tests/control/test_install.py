"""The control half alone: built as a wheel, installed into a bare environment, run from any folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of what git tracks, so that no build folder is left here."""
    folder = tmp_path_factory.mktemp("build")
    files = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run(UV, "build", "--wheel", "--quiet", folder, "--out-dir", folder / "dist", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def pythons() -> list[str]:
    """Those of the supported Pythons that this machine has; the one that runs the tests is among them."""
    command = [UV, "python", "find", "--no-python-downloads"]
    return [version for version in PYTHONS if subprocess.run([*command, version], capture_output=True).returncode == 0]


@pytest.mark.parametrize("version", pythons())
def test_the_control_half_installs_alone(version: str, wheel: Path, tmp_path: Path) -> None:
    run(UV, "venv", "--quiet", "--python", version, "env", cwd=tmp_path)
    run(UV, "pip", "install", "--quiet", "--python", "env/bin/python", wheel, cwd=tmp_path)
    hpcjobs = tmp_path / "env" / "bin" / "hpcjobs"
    sweep = (hpcjobs, "sweep", "--gpus", "1,16", "--cluster", "c4140", "--set", "data.dir=/data", "--dry-run")
    assert "#SBATCH --nodes=4\n" in run(*sweep, cwd=tmp_path).stdout
    missing = run(hpcjobs, "data", "synth", "--out", "shards", cwd=tmp_path, code=2).stderr
    assert "pip install 'hpcjobs[train]'" in missing
    missing = run(hpcjobs, "sweep", "--gpus", "1", "--experiment", "demo", cwd=tmp_path, code=2).stderr
    assert "pip install 'hpcjobs[train]'" in missing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env"]
