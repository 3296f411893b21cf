"""Runs that count tokens beside runs that count samples: one table, figure and comparison for each unit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs.analysis.compare import compare_sweeps
from hpcjobs.analysis.extrap import extrap
from hpcjobs.analysis.predict import fill, predict
from hpcjobs.analysis.scaling import table
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import Progress, RunState
from hpcjobs.cli.show_runs import status_json, status_table
from hpcjobs.collect.runs_csv import read_runs, to_text
from hpcjobs.engine.state import RunStatus
from hpcjobs.report import figures, page, sentences, tables
from hpcjobs.report.contents import series
from hpcjobs.report.write import write_report
from tests.control.studies import study
from tests.control.sweeps import run
from tests.control.test_page import Page
from tests.running import hpcjobs

SIZES = (1, 2, 4, 8, 16)
NO_BATCH = {"local_batch": None, "global_batch": None}


def tokens(sizes: tuple[int, ...] = SIZES, factor: float = 1.0) -> list[Run]:
    """A language model whose log gives nothing but its rate: no batch, no step time."""
    return [
        run(
            gpus, factor * 9000.0 * gpus**0.9, experiment="gpt", unit="tokens", score=2.5, score_name="loss", **NO_BATCH
        )
        for gpus in sizes
    ]


def samples(sizes: tuple[int, ...] = SIZES) -> list[Run]:
    return [run(gpus, 300.0 * gpus**0.95, experiment="resnet", unit="samples") for gpus in sizes]


def both() -> list[Run]:
    return [*tokens(), *samples()]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    (tmp_path / "runs.csv").write_text(to_text(both()))
    return tmp_path


# --- the command line ----------------------------------------------------------------------------


def test_the_terminal_and_a_pull_request_get_a_table_for_each_unit(csv: Path) -> None:
    words = ("report", "--runs", "runs.csv", "--out", "o")
    first, second = hpcjobs(*words, cwd=csv).stdout.rstrip().split("\n\n")
    assert "tokens/s" in first.splitlines()[0]
    assert "loss" in first.splitlines()[0]
    assert "samples/s" in second.splitlines()[0]
    assert "score" not in second.splitlines()[0]
    assert len(first.splitlines()) == len(second.splitlines()) == 1 + len(SIZES)
    heads = [line for line in hpcjobs(*words, "--markdown", cwd=csv).stdout.splitlines() if line.startswith("| GPUs")]
    assert ["tokens/s" in head for head in heads] == [True, False]
    assert ["samples/s" in head for head in heads] == [False, True]


def test_json_has_a_list_of_rows_for_each_unit(csv: Path) -> None:
    words = ("report", "--runs", "runs.csv", "--out", "o", "--json")
    printed = json.loads(hpcjobs(*words, cwd=csv).stdout)
    assert [(each["unit"], len(each["rows"])) for each in printed["tables"]] == [("tokens", 5), ("samples", 5)]
    assert all(row["unit"] == each["unit"] for each in printed["tables"] for row in each["rows"])
    # Rows of one unit are a list, as they have always been.
    (csv / "runs.csv").write_text(to_text(tokens()))
    assert {row["unit"] for row in json.loads(hpcjobs(*words, cwd=csv).stdout)} == {"tokens"}


def test_predictions_say_their_unit(csv: Path) -> None:
    printed = hpcjobs("predict", "--runs", "runs.csv", "--gpus", "32", cwd=csv).stdout
    assert "tokens/s" in printed
    assert "samples/s" in printed
    found = json.loads(hpcjobs("predict", "--runs", "runs.csv", "--gpus", "32", "--json", cwd=csv).stdout)
    assert [each["unit"] for each in found] == ["tokens", "samples"]


def test_a_published_table_of_another_unit_is_refused_before_anything_is_written(csv: Path) -> None:
    words = ("report", "--runs", "runs.csv", "--out", "o", "--reference", "dell-c4140-v100-2019")
    assert "it counts images, and no run does" in hpcjobs(*words, cwd=csv, code=2).stderr
    assert not (csv / "o").exists()


def test_status_says_the_unit_of_the_rates() -> None:
    running = [
        RunStatus(f"r{number}", RunState.RUNNING, progress=Progress(5, throughput=12.0, unit=unit))
        for number, unit in enumerate(("tokens", "samples"))
    ]
    waiting = RunStatus("w", RunState.PENDING)

    def rate(runs: list[RunStatus]) -> tuple[str, list[str]]:
        column = status_table(runs).columns[7]
        return str(column.header), [str(cell) for cell in column.cells]

    assert rate([running[0], waiting]) == ("tokens/s", ["12.0", ""])
    assert rate(running) == ("rate", ["12.0 tokens/s", "12.0 samples/s"])
    assert [each["unit"] for each in json.loads("".join(status_json(running)))] == ["tokens", "samples"]


# --- speed-up, models, comparisons ---------------------------------------------------------------


def test_one_experiment_that_counts_two_units_has_two_bases_and_two_models() -> None:
    runs = [*tokens(), *(run(each, 300.0 * each, experiment="gpt", unit="samples", **NO_BATCH) for each in SIZES)]
    rows = fill(table(runs))
    assert {(row.unit, row.gpus): row.efficiency for row in rows if row.gpus == 16} == {
        ("tokens", 16): pytest.approx(16**-0.1), ("samples", 16): pytest.approx(1.0),
    }  # fmt: skip
    predicted = {row.unit: row.predicted_throughput for row in rows if row.gpus == 16}
    assert predicted["tokens"] == pytest.approx(9000 * 16**0.9, rel=0.1)
    assert predicted["samples"] == pytest.approx(4800.0, rel=0.1)
    assert [each.label for each in series(rows)] == ["samples", "tokens"]
    with pytest.raises(InputError, match="2 series"):
        extrap(rows)


def test_without_a_batch_a_model_predicts_rates_and_no_step() -> None:
    (outlook,) = predict(table(tokens()), [32], resamples=0)
    last = outlook.models[0].predictions[-1]
    assert (last.gpus, last.step_ms) == (32, None)
    assert last.throughput.value == pytest.approx(9000 * 32**0.9, rel=0.2)


def test_sweeps_are_compared_within_a_unit() -> None:
    found = compare_sweeps(table(both()), table([*tokens(factor=0.5), *samples()]))
    assert {(each.unit, each.gpus): each.ratio for each in found if each.gpus == 4} == {
        ("tokens", 4): pytest.approx(2.0), ("samples", 4): pytest.approx(1.0),
    }  # fmt: skip
    with pytest.raises(InputError, match="no size was measured in both sweeps"):
        compare_sweeps(table(tokens()), table([run(1, 5.0, unit="samples", experiment="gpt", **NO_BATCH)]))


def test_a_file_of_version_0_1_and_a_new_one_are_compared_either_way(tmp_path: Path) -> None:
    """The old file has the old names and no unit; it counts images, as all runs of its version."""
    new = [run(gpus, 110.0 * gpus, score=0.8, score_name="AUC (val)") for gpus in SIZES]
    (tmp_path / "new.csv").write_text(to_text(new))
    lines = [f"demo,{gpus},4,{4 * gpus},{100 * gpus},0.8,val" for gpus in SIZES]
    header = "experiment,gpus,local_batch,global_batch,images_per_sec,mean_auc,auc_split"
    (tmp_path / "old.csv").write_text("\n".join([header, *lines]) + "\n")
    for ours, theirs, ratio in (("new", "old", 1.1), ("old", "new", 1 / 1.1)):
        words = ("report", "--runs", f"{ours}.csv", "--out", ours, "--against", f"{theirs}.csv", "--json")
        found = json.loads(hpcjobs(*words, cwd=tmp_path).stdout)
        assert [each["ratio"] for each in found["against"]] == pytest.approx([ratio] * len(SIZES))
        assert {each["unit"] for each in found["against"]} == {"images"}
        assert {(row["score_name"], row["score"]) for row in found["rows"]} == {("AUC (val)", 0.8)}
    (outlook,) = json.loads(hpcjobs("predict", "--runs", "old.csv", "--gpus", "32", "--json", cwd=tmp_path).stdout)
    assert outlook["unit"] == "images"


def test_runs_come_back_from_json_with_their_unit() -> None:
    text = json.dumps([each.row() for each in both()])
    assert [(each.unit, each.score_name, each.local_batch) for each in read_runs(text, "x")] == [
        (each.unit, each.score_name, each.local_batch) for each in both()
    ]


# --- figures and page ----------------------------------------------------------------------------


def test_figures_and_tables_of_the_page_keep_to_one_unit() -> None:
    it = study(both())
    drawings = figures.draw(it)
    assert [(each.name, each.title) for each in drawings if each.name.startswith("scaling")] == [
        ("scaling", "Throughput (tokens)"), ("scaling-2", "Throughput (samples)"),
    ]  # fmt: skip
    labels = [each.figure.axes[0].get_ylabel() for each in drawings if each.name.startswith("scaling")]
    assert labels == ["tokens/s over all GPUs", "samples/s over all GPUs"]
    assert "2 GPUs: 16,795;" in next(each.description for each in drawings if each.name == "scaling")
    found = Page(page.render(it, drawings))
    assert len(found.ids) == len(set(found.ids))
    assert next(text for text, _ in found.column("tokens/s", "scaling")) == "9,000"
    assert next(text for text, _ in found.column("samples/s", "scaling-2")) == "300.0"
    # All runs are one list; each rate has its unit.
    assert [text for text, _ in found.column("rate", "runs")][::5] == ["9,000 tokens/s", "300.0 samples/s"]
    # No batch, no step time: the cells are empty, and the page says why.
    assert {text for text, _ in found.column("step, ms", "scaling")} == {"\N{EN DASH}"}
    assert "without it no step time and no kind of scaling are known" in found.words["main"]


def test_figures_of_a_second_unit_go_with_it(tmp_path: Path) -> None:
    write_report(tmp_path, table(both()), title="x")
    assert (tmp_path / "scaling-2.png").exists()
    (tmp_path / "scaling-notes.png").write_text("the user's own")
    paths = write_report(tmp_path, table(tokens()), title="x")
    assert not (tmp_path / "scaling-2.png").exists()
    assert set(tmp_path.iterdir()) == {*paths, tmp_path / "scaling-notes.png"}


def test_a_log_that_gives_a_step_but_no_batch_lacks_the_kind_of_scaling_alone() -> None:
    rows = table([run(1, 100.0, unit="steps", **NO_BATCH), run(2, 190.0, unit="steps", **NO_BATCH)])
    (answer,) = sentences.answers(rows)
    assert answer.how_far[-1] == "The batch is not known; without it no step time and no kind of scaling are known."
    rows = table([run(1, 100.0, **{"step_ms": 10.0, **NO_BATCH}), run(2, 190.0, **{"step_ms": 10.5, **NO_BATCH})])
    (answer,) = sentences.answers(rows)
    assert answer.how_far[-1] == "The batch is not known; without it no kind of scaling is known."
    (answer,) = sentences.answers(table(samples()))
    assert not any("batch is not known" in text for text in answer.how_far)


def test_a_score_is_named_where_the_runs_do_not_agree_on_it() -> None:
    rows = table([
        run(1, 100.0, score=0.9, score_name="accuracy"), run(2, 190.0, score=1.7, score_name="loss"),
    ])  # fmt: skip
    text = tables.markdown(rows)
    assert "| score |" in text
    assert "0.900 (accuracy)" in text
    assert "1.700 (loss)" in text
