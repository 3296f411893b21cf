"""Two ranks learn, and it holds for patients they have never seen."""

from __future__ import annotations

import csv
from pathlib import Path

from hpcjobs.chexnet.data.tfrecord import patient_ids
from tests.fixtures_data import synth
from tests.train.launch import make_run, train


def test_two_ranks_reach_a_mean_auc_of_0_9_on_unseen_patients(tmp_path: Path):
    """Made-up X-rays with the frequencies of NIH's findings: of 2,800 to learn from, 6 show a hernia."""
    made = synth(tmp_path / "data", images=4000, size=32, seed=1)
    run_yaml = make_run(
        tmp_path / "run",
        made.folder,
        gpus=2,
        data={"shuffle": 2048, "repeat": False},
        augment={"flip": False},  # A made-up finding has its side.
        batch={"local": 8},
        train={"epochs": 5, "steps": None},
        lr={"base": 0.005},
    )
    outcome = train(run_yaml, 2)
    assert outcome.rc == 0, outcome.stderr

    seen = {patient for split in ("train", "val") for patient in patient_ids(made.files(split))}
    assert seen.isdisjoint(patient_ids(made.files("test")))
    with (outcome.attempt / "auc.csv").open() as file:
        test = {row["class"]: row for row in csv.DictReader(file) if row["split"] == "test"}
    mean = test.pop("mean")
    assert len(test) == 14
    assert all(row["auc"] for row in test.values())  # No class is left out of the mean.
    assert sum(int(row["positives"]) for row in test.values()) == int(mean["positives"])
    assert float(mean["auc_low"]) < float(mean["auc"]) < float(mean["auc_high"])
    assert float(mean["auc"]) >= 0.9
