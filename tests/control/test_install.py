"""The wheel, installed into a bare environment and run from any folder: the control half alone, then both halves."""

from __future__ import annotations

import email
import email.message
import json
import os
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Folders of the repository that ship, and where in the wheel.
SHIPPED = {"hpcjobs": "hpcjobs", "templates": "hpcjobs/templates", "experiments": "hpcjobs/experiments"}
NOBODY = 65534
# The user nobody, who may read everything (the Python in root's home, pytest's folders) and write nothing of root's.
UNPRIVILEGED = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    "--securebits=+no_setuid_fixup",  # else access(2), which mpirun calls, does not count that capability
)
AS_ANOTHER = os.geteuid() == 0 and subprocess.run([*UNPRIVILEGED, "true"], capture_output=True).returncode == 0
CUSTOM = """\
{% extends "base.sbatch.j2" %}
{% block launcher %}site-launch --ranks {{ size.gpus }}{% endblock %}
"""
PROFILE = "name: mine\npartition: gpu\ngpus_per_node: 4\ntemplate: mine.sbatch.j2\n"
RUNS = """\
run,gpus,local_batch,global_batch,experiment,throughput
a,1,64,64,chexnet,180.5
b,4,64,256,chexnet,610.0
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    """The stdout of the command, or its stderr if it must fail."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def tracked(*folders: str) -> list[str]:
    """The files that git tracks, or would track after `git add`, and that exist."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders, cwd=ROOT)
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, so that the build leaves no folder in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--wheel", "--quiet", source, "--out-dir", out, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def pythons() -> list[str]:
    """The supported versions of Python that this machine has, at least the one that runs the tests."""
    command = [UV, "python", "find", "--no-python-downloads"]
    return [version for version in PYTHONS if subprocess.run([*command, version], capture_output=True).returncode == 0]


@pytest.fixture(scope="module", params=pythons())
def bare(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    run(UV, "venv", "--quiet", "--python", request.param, folder, cwd=folder.parent)
    run(UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", wheel, cwd=folder.parent)
    return folder


def environment(env: Path, home: Path) -> dict[str, str]:
    """The environment of a user with `env` on PATH and nothing of this repository."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("XDG_")}
    path = [each for each in os.environ["PATH"].split(os.pathsep) if not Path(each).is_relative_to(ROOT)]
    return kept | {"HOME": str(home), "PATH": os.pathsep.join([str(env / "bin"), *path])}


def package(name: str, cwd: Path, env: dict[str, str]) -> Path:
    """The folder from which the Python on PATH imports this package."""
    find = f"import importlib.util; print(importlib.util.find_spec('{name}').origin)"
    origin = run("python", "-c", find, cwd=cwd, env=env)
    return Path(origin.strip()).parent


def test_the_wheel_holds_what_git_tracks_and_nothing_else(wheel: Path) -> None:
    """Finds folders and kinds of files that setup.cfg does not name, and files that should not ship."""
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    expected = {f"{SHIPPED[top]}/{rest}" for top, _, rest in (name.partition("/") for name in tracked(*SHIPPED))}
    assert packed == expected
    assert packed >= {
        "hpcjobs/templates/base.sbatch.j2",
        "hpcjobs/experiments/clusters/local.yaml",
        "hpcjobs/experiments/reference/dell-c4140-v100-2019.csv",
        "hpcjobs/experiments/reference/SOURCES.md",
    }


def test_the_wheels_metadata(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" in name]
        about = {name.partition(".dist-info/")[2]: file.read(name).decode() for name in names}
    assert about["entry_points.txt"].split() == ["[console_scripts]", "hpcjobs", "=", "hpcjobs.cli:main"]
    assert about["licenses/LICENSE"] == (source / "LICENSE").read_text()
    metadata: email.message.Message = email.message_from_string(about["METADATA"])
    assert (metadata["Name"], metadata["License-Expression"]) == ("hpcjobs", "Apache-2.0")
    assert (metadata["Requires-Python"], metadata.get_all("Provides-Extra")) == (">=3.10", ["train"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == (source / "README.md").read_text().strip()
    control: list[str] = []
    train: list[str] = []
    for needed in metadata.get_all("Requires-Dist", []):
        (train if 'extra == "train"' in needed else control).append(needed)
    assert not [needed for needed in control if needed.startswith(("tensorflow", "horovod", "mpi4py"))]
    assert {needed.partition(";")[0] for needed in train} >= {"tensorflow==2.15.1", "horovod==0.28.1", "numpy==1.26.4"}


def test_the_control_half_alone(bare: Path, tmp_path: Path) -> None:
    env = environment(bare, tmp_path)
    assert package("hpcjobs", tmp_path, env).is_relative_to(bare)
    sweep = ("hpcjobs", "sweep", "--gpus", "1,16", "--cluster", "c4140", "--set", "data.dir=/data", "--dry-run")
    assert "#SBATCH --nodes=4\n" in run(*sweep, cwd=tmp_path, env=env)
    missing = run("hpcjobs", "data", "synth", "--out", "shards", cwd=tmp_path, env=env, code=2)
    assert "install the compute half" in missing
    missing = run("hpcjobs", "sweep", "--gpus", "1", "--experiment", "demo", cwd=tmp_path, env=env, code=2)
    assert "install the compute half" in missing
    assert list(tmp_path.iterdir()) == []


def test_profiles_are_read_from_the_wheel(bare: Path, tmp_path: Path) -> None:
    env = environment(bare, tmp_path)
    listed = [line.split() for line in run("hpcjobs", "cluster", "list", cwd=tmp_path, env=env).splitlines()]
    shipped = {path.stem for path in (ROOT / "experiments" / "clusters").glob("*.yaml")}
    assert {(name, origin) for name, origin, _ in listed} == {(name, "hpcjobs") for name in shipped}
    assert all(Path(path).is_relative_to(bare) for _, _, path in listed)
    assert "gpu_type: v100" in run("hpcjobs", "cluster", "show", "c4140", cwd=tmp_path, env=env)
    schema = json.loads(run("hpcjobs", "cluster", "schema", cwd=tmp_path, env=env))
    assert "gpus_per_node" in json.dumps(schema)


def test_a_users_template_extends_one_of_the_wheel(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text(PROFILE)
    (tmp_path / "clusters" / "mine.sbatch.j2").write_text(CUSTOM)
    words = ("hpcjobs", "sweep", "--gpus", "8", "--cluster", "mine", "--set", "data.dir=/data", "--dry-run")
    script = run(*words, cwd=tmp_path, env=environment(bare, tmp_path))
    assert "#SBATCH --nodes=2\n" in script
    assert 'site-launch --ranks 8 "${command[@]}" &' in script
    assert str(bare / "bin" / "python") in script


def test_a_report_beside_the_reference_of_the_wheel(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(RUNS)
    words = ("report", "--runs", "runs.csv", "--out", "o", "--reference", "dell-c4140-v100-2019")
    printed = run("hpcjobs", *words, cwd=tmp_path, env=environment(bare, tmp_path))
    assert "589.4" in printed  # the reference's images/s on four GPUs
    written = {path.name for path in (tmp_path / "o").iterdir()}
    assert written >= {"scaling-report.csv", "scaling.png", "scaling.svg", "report.html"}
    assert list(pandas.read_csv(tmp_path / "o" / "scaling-report.csv").throughput) == [180.5, 610.0]
    assert "dell-c4140-v100-2019" in (tmp_path / "o" / "report.html").read_text()


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The wheel in a read-only environment that also sees the compute half's packages of this environment.

    A .pth file adds their folder. Python ignores .pth files in such a folder, so hpcjobs still comes from the wheel.
    """
    folder = tmp_path / "opt" / "env"
    folder.parent.mkdir()
    version = sysconfig.get_python_version()
    run(UV, "venv", "--quiet", "--python", version, folder, cwd=tmp_path)
    run(UV, "pip", "install", "--quiet", "--no-deps", "--python", folder / "bin" / "python", wheel, cwd=tmp_path)
    packages = folder / "lib" / f"python{version}" / "site-packages"
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Each rank writes the file that it runs into its working folder: only ranks import `train`.
    with (packages / "hpcjobs" / "chexnet" / "train" / "__init__.py").open("a") as file:
        file.write("import os\nopen(f'ran.{os.getpid()}', 'w').write(__file__)\n")
    run("chmod", "-R", "a-w,a+rX", folder, cwd=tmp_path)
    return folder


def contents(folder: Path) -> dict[Path, int]:
    """Every file and folder in it with its modification time in ns."""
    return {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_both_halves_without_the_right_to_write_beside_the_code(installed: Path, tmp_path: Path) -> None:
    """A whole sweep of a user who owns neither the installation nor this repository."""
    work, home = tmp_path / "work", tmp_path / "home"
    for folder in (work, home):
        folder.mkdir()
        if AS_ANOTHER:
            os.chown(folder, NOBODY, NOBODY)
    user = UNPRIVILEGED if AS_ANOTHER else ()
    env = environment(installed, home)
    before = contents(installed)
    assert package("hpcjobs", work, env).is_relative_to(installed)
    assert package("tensorflow", work, env).is_relative_to(sysconfig.get_path("purelib"))
    words = ("sweep", "--gpus", "1,2", "--experiment", "demo", "--cluster", "local", "--out", "o", "--wait")
    assert "speed-up" in run(*user, "hpcjobs", *words, cwd=work, env=env)
    table = pandas.read_csv(work / "o" / "report" / "scaling-report.csv")
    assert (list(table.gpus), list(table.runs)) == ([1, 2], [1, 1])
    assert (table.throughput > 0).all()
    for gpus in (1, 2):
        ran = [path.read_text() for path in (work / "o" / "runs" / f"g{gpus:04d}-r01" / "a001").glob("ran.*")]
        assert len(ran) == gpus
        assert all(Path(path).is_relative_to(installed) for path in ran)
    assert {path.name for path in work.iterdir()} == {"o"}
    assert contents(installed) == before
    if AS_ANOTHER:
        assert {path.stat().st_uid for path in (work / "o").rglob("*")} == {NOBODY}
