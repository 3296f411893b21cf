"""The factory of schedulers: which one a profile gets, and what each can do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hpcjobs.config import Cluster
from hpcjobs.schedulers import factory
from hpcjobs.schedulers.local.local_scheduler import LocalScheduler
from hpcjobs.schedulers.slurm.slurm_scheduler import SlurmScheduler

SLURM = Cluster(name="c", gpus_per_node=4)
LOCAL = Cluster(name="here", scheduler="local", gpu_request="none", requeues=2)


def test_slurm_needs_nothing_but_the_profile() -> None:
    assert isinstance(factory.make(SLURM), SlurmScheduler)


def test_the_local_scheduler_has_its_folders_and_the_requeues_of_the_profile(tmp_path: Path) -> None:
    made = factory.make(LOCAL, folder=tmp_path / "local", output=tmp_path / "out", epilogue=["true"])
    assert isinstance(made, LocalScheduler)
    assert (made.queue.folder, made.output) == (tmp_path / "local", tmp_path / "out")
    assert (made.epilogue, made.requeues) == (["true"], 2)


def test_the_local_scheduler_without_a_folder_is_an_error() -> None:
    with pytest.raises(ValueError, match="cluster 'here': scheduler local needs a folder for its queue"):
        factory.make(LOCAL)


def test_capabilities_are_told_without_making_a_scheduler(tmp_path: Path) -> None:
    assert factory.capabilities(SLURM) == factory.make(SLURM).capabilities
    assert factory.capabilities(LOCAL) == factory.make(LOCAL, folder=tmp_path).capabilities


def test_what_slurm_can_and_this_machine_cannot() -> None:
    slurm, local = (dataclasses.asdict(factory.capabilities(cluster)) for cluster in (SLURM, LOCAL))
    assert sorted(name for name in slurm if slurm[name] and not local[name]) == [
        "accounting",
        "compute_nodes",
        "dependencies",
        "limits",
        "requeue_from_job",
        "site_options",
    ]
    assert [name for name in local if local[name] and not slurm[name]] == ["epilogue"]


@pytest.mark.parametrize(("code", "answers"), [("echo Slurmctld is UP", True), ("exit 1", False)])
def test_whether_a_slurm_answers_is_asked_here(
    code: str, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/bash\n{code}\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert factory.slurm_answers() is answers
