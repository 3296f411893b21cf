"""The pages that take no cluster, word by word on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas
import pytest

from hpcjobs.config import load
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment
from tests.docs.pages import ROOT, code
from tests.docs.stage import Stage
from tests.docs.trainer import fake_trainer
from tests.meter_truth import ALLOWANCE_MS
from tests.running import status


@pytest.mark.timeout(1800)
def test_quick_start(tmp_path: Path) -> None:
    """Real trainings, but for the dozen with two batches: then a profile in the folder names a fake trainer."""
    stage = Stage(tmp_path)
    trainer = fake_trainer(stage)
    fake = f"hpcjobs cluster show local | sed 's#^python: .*#python: {trainer}#' >fake.yaml\n"
    fake += "mkdir clusters; mv fake.yaml clusters/local.yaml"
    said = stage.follow("docs/quickstart.md", between={"batch.local=4,8": fake}, timeout=1700)

    table = pandas.read_csv(tmp_path / "first" / "report" / "scaling-report.csv")
    assert list(table.gpus) == [1, 2, 4]
    assert list(table.runs) == [1, 1, 1]
    assert (table.throughput > 0).all()
    assert table.software.str.contains("tensorflow").all()  # these were real
    assert "speed-up" in said[1]
    dataset = json.loads((tmp_path / "first" / "data" / "dataset.json").read_text())
    assert sum(split["images"] for split in dataset["splits"].values()) == 512
    # All that the page says is on disk, by the names it says.
    spans = {each.text for each in code(ROOT / "docs/quickstart.md") if each.kind == "span"}
    for name in (
        "sweep.yaml",
        "provenance.json",
        "scripts/g0004.sbatch",
        "runs/g0004-r01/",
        "journal.jsonl",
        "report/",
    ):
        assert name in spans
        assert (tmp_path / "first" / name).exists()
    assert (tmp_path / "first" / "runs" / "g0004-r01" / "checkpoints").is_dir()
    assert not (tmp_path / "again").exists()  # a dry run

    second = status("second", cwd=tmp_path, env=stage.env)
    assert {name: run["state"] for name, run in second.items()} == {"g0001-r01": "done", "g0002-r01": "done"}

    batches = pandas.read_csv(tmp_path / "batches" / "report" / "scaling-report.csv")
    assert sorted(zip(batches.gpus, batches["param.batch.local"], strict=True)) == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert (batches.throughput_low < batches.throughput).all()

    own = load(tmp_path / "experiments" / "mine.yaml", ChexnetExperiment)
    assert (own.name, own.train.steps) == ("mine", 40)
    assert "sweep of mine on local" in said[-1]


@pytest.mark.timeout(900)
def test_a_training_of_ones_own(tmp_path: Path) -> None:
    """A real training, in Python's standard library alone."""
    stage = Stage(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    begun, tried, checked = stage.follow("docs/own-training.md", timeout=800)
    place = tmp_path / "examples" / "plain_sockets"
    assert "experiments/mine.yaml" in begun
    rates = pandas.read_csv(place / "rates" / "report" / "scaling-report.csv")
    assert sorted(zip(rates.gpus, rates["param.lr"], strict=True)) == [
        (1, 0.01),
        (1, 0.02),
        (2, 0.01),
        (2, 0.02),
    ]
    assert set(rates.unit) == {"samples"}
    assert (rates.throughput > 0).all()
    assert (rates.global_batch == 32 * rates.gpus).all()
    assert tried.splitlines()[1].startswith("train.log,")
    assert {"workdir", "command", "port"} <= {line.split()[1] for line in checked.splitlines()}
    assert {line.split()[0] for line in checked.splitlines()} == {"ok"}
    # Each variable that the page names is one that a run finds.
    script = (place / "rates" / "scripts" / "g0002.sbatch").read_text() + (place / "rates/scripts/rank.sh").read_text()
    spans = {each.text for each in code(ROOT / "docs/own-training.md") if each.kind == "span"}
    names = {text for text in spans if text.startswith("HPCJOBS_")}
    # Of a profile with a time limit, and of an experiment with `stop`.
    assert {name for name in names if name not in script} <= {"HPCJOBS_STOP_SIGNAL"}
    assert len(names) > 12


@pytest.mark.timeout(900)
def test_where_the_time_of_a_training_goes(tmp_path: Path) -> None:
    """Two lines in a real training, whose losses are built in: they are in the table."""
    stage = Stage(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    stage.follow("docs/your-training.md", timeout=800)
    table = pandas.read_csv(tmp_path / "examples" / "plain_sockets" / "taken-apart" / "report" / "scaling-report.csv")
    assert list(table.gpus) == [1, 2]
    assert set(table.unit) == {"samples"}
    assert list(table.global_batch) == [64, 128]
    row = table.set_index("gpus").loc[2]
    for loss, built_in in (("lost_input_ms", 10), ("lost_allreduce_ms", 15)):
        if pandas.isna(row[loss]) and "ranks_wait_for_cpus" in str(row.flags):
            continue  # other work took the CPUs
        # A 95 % interval misses once in twenty: hence four half-widths.
        slack = max(2 * (row[f"{loss}_high"] - row[f"{loss}_low"]), built_in / 10) + 2 * ALLOWANCE_MS
        assert row[loss] == pytest.approx(built_in, abs=slack)
