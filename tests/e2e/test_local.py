"""Whole sweeps on this machine: real Horovod ranks, real X-rays, the same job scripts as on Slurm."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pandas
import pytest

from hpcjobs.chexnet.data.dataset import Dataset
from tests.running import hpcjobs, status, until

SIZES = (1, 2, 4)


def test_a_sweep_on_real_xrays(tmp_path: Path, nih: Path) -> None:
    """`data prepare` on real X-rays with the official lists, then a sweep of three sizes."""
    hpcjobs(
        "data", "prepare", "--images", str(nih / "images"), "--metadata", str(nih / "Data_Entry_2017_v2020.csv.gz"),
        "--train-list", str(nih / "train_val_list.txt.gz"), "--test-list", str(nih / "test_list.txt.gz"),
        "--out", "shards", "--size", "64", "--skip-bad", cwd=tmp_path,
    )  # fmt: skip
    began = time.monotonic()
    done = hpcjobs(
        "sweep", "--gpus", "1,2,4", "--cluster", "local", "--experiment", "demo", "--set", "data.dir=shards",
        "--out", "o", "--wait", cwd=tmp_path,
    )  # fmt: skip
    took = time.monotonic() - began
    assert "speed-up" in done.stdout
    report = tmp_path / "o" / "report"
    assert {path.name for path in report.iterdir()} >= {"scaling-report.csv", "runs.csv", "auc.csv", "scaling.png"}
    table = pandas.read_csv(report / "scaling-report.csv")
    assert list(table.gpus) == list(SIZES)
    assert (table.throughput > 0).all()
    assert list(table.global_batch) == [4, 8, 16]
    assert list(table.runs) == [1, 1, 1]
    assert table.speedup[0] == table.efficiency[0] == 1.0
    assert table.startup_s.between(1, took).all()
    for size in SIZES:
        attempt = tmp_path / "o" / "runs" / f"g{size:04d}-r01" / "a001"
        assert json.loads((attempt / "exit.json").read_text())["rc"] == 0
        (line,) = [line for line in (attempt / "train.log").open() if '"hpcjobs_run"' in line]
        about = json.loads(line.removeprefix(":::MLLOG"))["value"]
        assert (about["gpus"], about["steps"], about["device"]) == (size, 40, "cpu")
        # The ranks train on the train split of the real data.
        dataset = json.loads((tmp_path / "shards" / "dataset.json").read_text())
        assert about["train_images"] == dataset["splits"]["train"]["images"]
    classes = pandas.read_csv(report / "auc.csv")
    assert set(classes.gpus) == set(SIZES)
    assert {"Atelectasis", "Hernia", "mean"} <= set(classes["class"])


def test_the_articles_recipe_trains_on_the_same_shards(tmp_path: Path, nih_shards: Dataset) -> None:
    done = hpcjobs(
        "sweep", "--gpus", "1", "--cluster", "local", "--experiment", "chexnet", "--repeats", "1",
        "--set", f"data.dir={nih_shards.folder}", "--set", "model.weights=none", "--set", "train.steps=3",
        "--set", "batch.local=1",
        "--out", "o", "--wait", "--json", cwd=tmp_path,
    )  # fmt: skip
    (row,) = json.loads(done.stdout)
    assert (row["experiment"], row["gpus"], row["runs"]) == ("chexnet", 1, 1)
    assert row["throughput"] > 0
    assert "short_warmup" in row["flags"].split()
    # The time of 10 epochs is derived from the rate: three steps are less than an epoch.
    assert row["time_to_train_kind"] == "derived_fixed_epochs"
    assert row["time_to_train_s"] == pytest.approx(10 * row["epoch_s"])


def test_a_wrong_data_folder_fails_with_the_line_that_says_why(tmp_path: Path) -> None:
    words = ("sweep", "--gpus", "1,2", "--cluster", "local", "--experiment", "demo", "--set", "data.dir=nowhere")
    done = hpcjobs(*words, "--out", "o", "--wait", cwd=tmp_path, code=1)
    assert "no dataset.json" in done.stderr
    for run in status("o", cwd=tmp_path, code=1).values():
        assert (run["state"], run["failure"]) == ("failed", "data_missing")
        assert str(tmp_path / "nowhere") in run["reason"]
        assert "data prepare" in run["hint"]
    table = pandas.read_csv(tmp_path / "o" / "report" / "scaling-report.csv")
    assert list(table.gpus) == [1, 2]
    assert list(table.failed_runs) == [1, 1]
    assert table.throughput.isna().all()


def ranks_of(folder: Path) -> list[int]:
    """Pids of the ranks that train in this sweep folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = any(str(folder).encode() in word for word in words)
            if ours and b"hpcjobs.chexnet.train" in words and b"python" in Path(words[0].decode()).name.encode():
                found.append(int(entry.name))
    return sorted(found)


def test_a_rank_that_dies_fails_the_run_and_cancel_ends_the_next(tmp_path: Path, nih_shards: Dataset) -> None:
    """The sweep continues after the command has ended; `status` shows a killed rank and a cancel."""
    long = ("--set", "train.steps=1000000", "--set", f"data.dir={nih_shards.folder}")
    words = ("sweep", "--gpus", "2", "--cluster", "local", "--experiment", "demo", "--repeats", "2", *long)
    done = hpcjobs(*words, "--out", "o", cwd=tmp_path)
    assert done.stdout == "o\n"
    until(lambda: status("o", cwd=tmp_path)["g0002-r01"]["step"] > 0)
    running = status("o", cwd=tmp_path)
    assert (running["g0002-r01"]["state"], running["g0002-r02"]["state"]) == ("running", "pending")
    ranks = ranks_of(tmp_path / "o")
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    until(lambda: not set(ranks) & set(ranks_of(tmp_path / "o")))
    until(lambda: status("o", cwd=tmp_path, code=None)["g0002-r01"]["state"] == "failed")
    failed = status("o", cwd=tmp_path, code=1)["g0002-r01"]
    assert failed["failure"] == "signal"
    assert "signal 9" in failed["reason"]

    until(lambda: len(ranks_of(tmp_path / "o")) >= 2)
    assert hpcjobs("cancel", "o", cwd=tmp_path).stdout == "g0002-r02\n"
    assert ranks_of(tmp_path / "o") == []
    until(lambda: status("o", cwd=tmp_path, code=None)["g0002-r02"]["state"] == "cancelled")
    # Both runs count in the table. The runner writes the report when no run is left.
    until((tmp_path / "o" / "report" / "scaling-report.csv").exists)
    table = pandas.read_csv(tmp_path / "o" / "report" / "scaling-report.csv")
    assert (list(table.runs), list(table.failed_runs)) == ([0], [2])
    assert "nothing to cancel" in hpcjobs("cancel", "o", cwd=tmp_path).stderr


def test_the_demo_makes_its_own_data(tmp_path: Path) -> None:
    hpcjobs("sweep", "--gpus", "1", "--experiment", "demo", "--cluster", "local", "--out", "o", "--wait", cwd=tmp_path)
    dataset = json.loads((tmp_path / "o" / "data" / "dataset.json").read_text())
    assert sum(split["images"] for split in dataset["splits"].values()) == 512
    assert dataset["image_size"] == [64, 64]
