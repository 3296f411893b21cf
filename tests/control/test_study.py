"""The Python face without a training: what it writes, refuses and reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpcjobs
from hpcjobs.base.errors import InputError
from hpcjobs.config import Experiment, profiles
from hpcjobs.plan.settings import written
from hpcjobs.study import prepare
from tests.control.scenario import SweepScenario


def test_settings_are_written_as_the_command_line_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value, a list of values, true and null."""
    given: list[str] = []

    def stop(gpus: object, document: object, *, settings: list[str], **more: object) -> None:
        given.extend(settings)
        raise InputError("that is enough")

    monkeypatch.setattr("hpcjobs.study.prepare", stop)
    with pytest.raises(InputError, match="that is enough"):
        hpcjobs.sweep(
            gpus="1,2",
            cluster="local",
            settings={"batch.local": [4, 8], "train.evaluate": False, "train.steps": None, "model.weights": "none"},
        )
    assert given == ["batch.local=4,8", "train.evaluate=false", "train.steps=null", "model.weights=none"]


def test_whatever_can_be_iterated_over_is_swept() -> None:
    import numpy

    given = {"batch.local": numpy.array([4, 8]), "seed": range(1, 3), "lr.base": numpy.float64(0.5)}
    assert list(written(given)) == ["batch.local=4,8", "seed=1,2", "lr.base=0.5"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gpus": [0]}, "'0' is not a GPU count"),
        ({"experiment": "dmeo"}, "did you mean 'demo'?"),
        ({"cluster": "lcal"}, "did you mean 'local'?"),
        ({"settings": {"batch.locl": 4}}, "batch.locl"),
        ({"override": {"nodes": "2"}}, "key 'nodes' of a profile cannot be overridden: did you mean 'nodelist'?"),
        ({"gpus": 0}, "'0' is not a GPU count"),
        ({"sbatch": "mail-type=FAIL"}, "--sbatch mail-type=FAIL needs Slurm"),
        ({"override": {"qos": "high"}}, "--qos needs Slurm, but cluster 'local' uses scheduler local"),
        ({"throttle": 1, "one_allocation": True}, "--throttle and --one-allocation exclude each other"),
        ({"settings": {"description": "one, two"}}, "settings: description: a value cannot contain a comma"),
        ({"repeats": 0}, "--repeats 0: expected a whole number, at least 1"),
        ({"repeats": -1}, "--repeats -1"),
        ({"repeats": "2"}, "--repeats 2"),
        ({"throttle": -1}, "--throttle -1"),
        ({"experiment": Path("dmeo.yaml")}, "dmeo.yaml: no such file"),
        ({"cluster": Path("lcal.yaml")}, "lcal.yaml: no such file"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_wrong_input_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"gpus": [1], "experiment": "demo", "cluster": "local", "out": "o"} | wrong
    with pytest.raises(InputError) as caught:
        hpcjobs.sweep(**words)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_sweep_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sweep here"):
        hpcjobs.open(tmp_path)


def test_a_preparation_writes_and_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ready = prepare(
        [1, 2], profiles.read(Experiment, "demo"), cluster=profiles.cluster("local"), check_node=True, out=Path("o")
    )
    files = ready.script_files()
    assert [path.relative_to(tmp_path / "o").as_posix() for path in files] == [
        "preflight/hpcjobs-check.sbatch",
        "scripts/g0001.sbatch",
        "scripts/g0002.sbatch",
    ]
    assert "-m hpcjobs.chexnet.node_check" in files[tmp_path / "o/preflight/hpcjobs-check.sbatch"]
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_that_of_the_report_and_writes_nothing(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).gpus(1, 2).repeats(1).submitted()
    study = scenario.study()
    before = sorted(tmp_path.rglob("*"))
    table = study.table()
    assert sorted(tmp_path.rglob("*")) == before
    assert list(table.gpus) == [1, 2]
    study.report()
    import pandas

    written = pandas.read_csv(study.folder / "report" / "scaling-report.csv")
    assert list(written.columns) == list(table.columns)


def test_lines_for_the_user_go_to_the_function_that_was_given(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).gpus(1).repeats(1).queueing().submitted()
    scenario.scheduler_away()
    lines: list[str] = []
    assert [run.run for run in scenario.study(lines.append).status()] == ["g0001-r01"]
    assert len(lines) == 1
    assert "showing" in lines[0]


def test_an_empty_list_of_runs_cancels_none(tmp_path: Path) -> None:
    """A script may pass the runs that it has chosen, and may have chosen none."""
    study = SweepScenario(tmp_path).gpus(1, 2).repeats(1).queueing().submitted().study()
    assert study.cancel([]) == []
    assert {str(run.state) for run in study.status()} == {"pending"}
    assert study.cancel("g0002-r01") == ["g0002-r01"]
    assert study.cancel() == ["g0001-r01"]


def test_the_module_lists_its_functions() -> None:
    """A notebook completes the names that dir() gives."""
    assert {"Study", "open", "sweep"} <= set(dir(hpcjobs))
