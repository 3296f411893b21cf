"""versions.py runs a command with a Slurm beside whatever else runs, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.running import until

from . import cluster as virtual
from . import versions

TOOL = [sys.executable, str(Path(versions.__file__))]
CLUSTER = f"{sys.executable} {virtual.__file__}"


def living(word: str) -> list[str]:
    """The command lines of this machine's processes that contain a word."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if word in line]


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short: below it are sockets, whose paths have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="v-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # munged refuses a socket that others cannot reach
        yield Path(folder)


@pytest.mark.slurm
@pytest.mark.parametrize("killed", [False, True])
def test_a_cluster_beside_others_ends_with_its_command(killed: bool, short: Path) -> None:
    """It has the same names and addresses as any other, but a network, processes and a state folder of its own."""
    own = versions.installed()
    more = "touch $0/up && sleep 1000" if killed else f"{CLUSTER} env"
    line = f'{CLUSTER} up && eval "$({CLUSTER} env)" && sinfo --version >$0/version && {more}'
    env = {**os.environ, "TMPDIR": str(short)}
    words = [*TOOL, own, "bash", "-c", line, str(short)]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    if killed:
        until(lambda: (short / "up").exists() or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    if not killed:
        assert process.returncode == 0
        assert f"export SLURM_CONF={short}/hpcjobs-slurm-{own}-" in output
        assert list(short.glob("hpcjobs-slurm-*")) == []
    assert (short / "version").read_text().split()[-1].startswith(f"{own}.")
    until(lambda: not living(str(short)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["19.05", "true"], "no packages of Slurm 19.05; there are those of 20.11, 22.05, 24.11, 26.05"),
        (["22.05", "true"], "needs root (mounts, network namespaces)"),
    ],
)
def test_an_error_is_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert versions.main(words) == 2
    assert capsys.readouterr().err == f"versions.py: {message}\n"


@pytest.mark.parametrize(
    ("word", "used"), [("newest", ["26.05"]), ("24.11", ["24.11"]), ("all", ["20.11", "22.05", "24.11", "26.05"])]
)
def test_a_word_stands_for_versions(word: str, used: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(version: str, command: Sequence[str]) -> int:
        asked.append(version)
        return 0

    monkeypatch.setattr(versions, "run", run)
    assert versions.main([word, "true"]) == 0
    assert asked == used


def test_a_newer_slurm_brings_its_libraries_and_an_older_one_uses_those_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "CACHE", tmp_path)
    for version in ("20.11", "24.11"):
        for name in (
            "sbin/slurmd",
            "bin/sbatch",
            "lib/x/slurm-wlm/gres_gpu.so",
            "lib/x/slurm-wlm/mpi_pmix.so",
            "lib/x/libc.so",
        ):
            path = tmp_path / f"slurm-{version}" / "usr" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert versions.layers("22.05", "22.05") == ("", "")
    newer = tmp_path / "slurm-24.11" / "usr"
    assert versions.layers("24.11", "22.05") == (f"{newer}:/usr", f"{newer}/lib/x/slurm-wlm")
    first, own, rest = versions.layers("20.11", "22.05")[0].split(":")
    assert (own, rest) == ("/usr", f"{tmp_path}/slurm-20.11/usr")
    assert sorted(str(path.relative_to(first)) for path in Path(first).rglob("*") if path.is_file()) == [
        "bin/sbatch",
        "lib/x/slurm-wlm/gres_gpu.so",
        "sbin/slurmd",
    ]
