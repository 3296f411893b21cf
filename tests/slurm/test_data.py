"""`hpcjobs data` as a job array of a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hpcjobs.config import profiles, to_builtins
from tests.fixtures_data import contents, prepare_from, synth
from tests.running import hpcjobs, until

from .conftest import Slurm

pytestmark = pytest.mark.slurm

SYNTH = ("data", "synth", "--images", "1200", "--size", "256", "--seed", "5")


def data_jobs(cluster: Slurm) -> set[str]:
    """The ids of all array tasks of `hpcjobs data` in accounting."""
    return set(cluster.run("sacct", "-X", "-n", "-P", "-o", "JobID", "--name", "hpcjobs-data").split())


def test_an_array_of_three_makes_the_same_bytes_as_one_worker(cluster: Slurm, nih: Path, tmp_path: Path) -> None:
    before = data_jobs(cluster)
    words = ["--images", nih / "images", "--metadata", nih / "Data_Entry_2017_v2020.csv.gz"]
    words += ["--train-list", nih / "train_val_list.txt.gz", "--test-list", nih / "test_list.txt.gz"]
    words += ["--size", "64", "--out", "array", "--skip-bad", "--cluster", "virtual", "--jobs", "3", "--workers", "2"]
    hpcjobs("data", "prepare", *map(str, words), cwd=tmp_path, env=cluster.env)
    assert contents(tmp_path / "array") == contents(prepare_from(nih, tmp_path / "local").folder)
    until(lambda: len(data_jobs(cluster) - before) == 3)
    new = data_jobs(cluster) - before
    assert len({job.partition("_")[0] for job in new}) == 1
    assert {job.partition("_")[2] for job in new} == {"0", "1", "2"}


def test_a_killed_driver_that_is_run_again_continues(cluster: Slurm, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hpcjobs", *SYNTH, "--out", "out", "--cluster", "virtual", "--jobs", "2"]
    driver = subprocess.Popen(
        words, cwd=tmp_path, env=cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: list(tmp_path.glob("out/.prepare/parts/*")))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = hpcjobs(*SYNTH, "--out", "out", "--cluster", "virtual", "--jobs", "2", cwd=tmp_path, env=cluster.env)
    assert "images are there from an interrupted run" in done.stderr
    assert contents(tmp_path / "out") == contents(synth(tmp_path / "local", images=1200, size=256, seed=5).folder)
    # The workers of the first array saw the newer run and exited.
    until(lambda: "hpcjobs-data" not in cluster.run("squeue", "-h", "-o", "%j"))


def test_ctrl_c_cancels_the_array(cluster: Slurm, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hpcjobs", *SYNTH, "--size", "1024", "--out", "out", "--cluster", "virtual"]
    driver = subprocess.Popen(words, cwd=tmp_path, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list(tmp_path.glob("out/.prepare/tmp/*")))
    driver.send_signal(signal.SIGINT)
    _, message = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert b"finished shards are kept, and the same command continues" in message
    until(lambda: "hpcjobs-data" not in cluster.run("squeue", "-h", "-o", "%j"))


def test_a_refused_submission_is_one_line_and_leaves_no_files(cluster: Slurm, tmp_path: Path) -> None:
    other = {**to_builtins(profiles.cluster("virtual")), "name": "other", "partition": "nowhere"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    done = hpcjobs(*SYNTH, "--out", "out", "--cluster", "./other.yaml", cwd=tmp_path, env=cluster.env, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("hpcjobs: error: --cluster other: ")
    assert "invalid partition specified: nowhere" in line
    assert not (tmp_path / "out").exists()


def test_an_unreachable_slurm_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=away\nSlurmctldHost=nowhere(127.0.0.1)\nSlurmctldPort=1\n")
    env = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
    began = time.monotonic()
    done = hpcjobs(*SYNTH, "--out", "out", "--cluster", "virtual", cwd=tmp_path, env=env, code=3)
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - began < 120
    assert not (tmp_path / "out").exists()
