"""The plan: nodes and tasks of each size, the parameter grid, names of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.base.contract import warmup_steps
from hpcjobs.base.errors import InputError
from hpcjobs.base.sizes import Size
from hpcjobs.config import Document, Experiment, load, profiles
from hpcjobs.plan.planning import Terms, make_plan, parameter_grid, parse_gpus, size_of
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment
from hpcjobs.trainers.command_line import document_of


def c4140(**changes: object):
    import msgspec

    return msgspec.structs.replace(profiles.cluster("c4140"), **changes)


def demo() -> Document:
    return profiles.read(Experiment, "demo")


def test_1_to_16_gpus_on_four_gpu_nodes() -> None:
    sizes = [size_of(gpus, c4140()) for gpus in (1, 2, 4, 8, 16)]
    assert sizes == [
        Size(1, 1, 1, 1, 1), Size(2, 1, 2, 2, 2), Size(4, 1, 4, 4, 4), Size(8, 2, 4, 4, 8), Size(16, 4, 4, 4, 16),
    ]  # fmt: skip


def test_the_error_about_a_count_that_does_not_fill_its_nodes_names_counts_that_do() -> None:
    with pytest.raises(
        InputError, match=r"6 GPUs do not fill nodes of 4 evenly.*1 to 4, or a multiple of 4 \(next: 4, 8\)"
    ):
        size_of(6, c4140())
    assert size_of(3, c4140()) == Size(3, 1, 3, 3, 3)
    assert size_of(6, c4140(uneven_nodes=True)) == Size(6, 2, 3, 3, 6)
    assert size_of(7, c4140(uneven_nodes=True)) == Size(7, 2, 4, 4, 7)


def test_more_nodes_than_the_cluster_has_is_an_error() -> None:
    with pytest.raises(InputError, match=r"32 GPUs need 8 nodes; cluster 'c4140' has 4 \(at most 16 GPUs\)"):
        size_of(32, c4140(nodes=4))


@pytest.mark.parametrize("text", ["", "1,,2", "1,x", "0", "-1", "1.5", "2,2", "²"])
def test_gpu_counts_that_are_not_positive_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--gpus"):
        parse_gpus(text)


def test_only_a_key_with_several_values_is_a_parameter() -> None:
    variants = parameter_grid(demo(), ["lr.base=0.1,0.01", "train.steps=20", "batch.local=2,4"])
    assert [variant.params for variant in variants] == [
        "batch.local=2;lr.base=0.1",
        "batch.local=4;lr.base=0.1",
        "batch.local=2;lr.base=0.01",
        "batch.local=4;lr.base=0.01",
    ]
    assert {variant.experiment.train.steps for variant in variants} == {20}
    assert variants[3].experiment.lr.base == 0.01


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr.base", "expected KEY=VALUE"),
        ("lr.bsae=1", "--set: unknown key 'lr.bsae': did you mean 'base'"),
        ("lr.base=fast", "--set: key 'lr.base': expected a number, got 'fast'"),
        ("name.first=x", "'name' is not a section"),
        ("lr.base=1,,2", "an empty or a repeated value"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parameter_grid(demo(), [setting])
    assert message in str(caught.value)


@pytest.mark.parametrize("values", ["a;b=c,d", "two\nlines,d"])
def test_a_swept_value_that_a_table_would_take_for_two_columns_or_lines_is_refused(values: str) -> None:
    command = document_of(["train", "{params.t}"])
    with pytest.raises(InputError, match=r"^--set params\.t: .* holds a line break"):
        parameter_grid(command, [f"params.t={values}"])
    # Nothing names a run by a value that is not swept, or by a semicolon alone.
    parameter_grid(command, [f"params.t={values.partition(',')[0]}"])
    assert [variant.params for variant in parameter_grid(command, ["params.t=a;b,c=d"])] == [
        "params.t=a;b",
        "params.t=c=d",
    ]


def test_a_global_batch_replaces_the_local_one_and_must_divide_over_the_gpus() -> None:
    variants = parameter_grid(demo(), ["batch.global=12"])
    assert variants[0].experiment.batch.local is None
    make_plan([1, 2, 4], variants, profiles.cluster("local"), 1)
    with pytest.raises(InputError, match=r"batch\.global 12 does not divide over 8 GPUs"):
        make_plan([8], variants, profiles.cluster("local"), 1)


def test_data_dir_is_relative_to_its_file_or_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpcjobs.config import read_yaml

    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "e.yaml"
    path.write_text("name: e\nbatch: {local: 1}\ndata: {dir: shards}\n")
    monkeypatch.chdir(tmp_path)
    assert parameter_grid(read_yaml(path), [])[0].experiment.data.dir == str(tmp_path / "sub" / "shards")
    assert parameter_grid(read_yaml(path), ["data.dir=shards"])[0].experiment.data.dir == str(tmp_path / "shards")
    assert load(path, ChexnetExperiment).data.dir == "shards"


def test_names_and_order_of_runs() -> None:
    plan = make_plan([1, 16], parameter_grid(demo(), ["lr.base=0.1,0.01"]), c4140(), 2)
    assert [run.name for run in plan.groups[1].runs] == [
        "g0016-p01-r01",
        "g0016-p02-r01",
        "g0016-p01-r02",
        "g0016-p02-r02",
    ]
    single = make_plan([1], parameter_grid(demo(), []), c4140(), 2)
    assert [run.name for run in single.runs] == ["g0001-r01", "g0001-r02"]


def test_a_short_run_warms_up_for_half_of_its_steps() -> None:
    def warmup(steps: int | None, mode: str = "train") -> int:
        return warmup_steps({"mode": mode, "measure": {"warmup_steps": 10}, "train": {"steps": steps}})

    assert [warmup(steps) for steps in (None, 40, 20, 19, 3, 2)] == [10, 10, 10, 9, 1, 1]
    assert warmup(2, "benchmark") == 10


def test_both_batches_at_once_are_refused() -> None:
    with pytest.raises(InputError, match=r"--set: give one of batch\.global and batch\.local, not both"):
        parameter_grid(demo(), ["batch.local=4,8", "batch.global=8"])


def test_a_value_that_looks_like_an_impossible_date_is_text() -> None:
    assert parameter_grid(demo(), ["description=2019-02-30"])[0].experiment.description == "2019-02-30"


def test_a_size_with_more_runs_than_an_array_has_tasks_gets_more_scripts() -> None:
    plan = make_plan([1, 16], parameter_grid(demo(), []), c4140(), 200, Terms(max_array=150))
    assert [(group.name, len(group.runs)) for group in plan.submitted] == [
        ("g0001", 150), ("g0001-c02", 50), ("g0016", 150), ("g0016-c02", 50),
    ]  # fmt: skip
    assert [run.name for run in plan.groups[1].runs[:2]] == ["g0001-r151", "g0001-r152"]


def test_one_allocation_holds_all_runs_repeat_by_repeat() -> None:
    plan = make_plan([1, 4, 8], parameter_grid(demo(), ["lr.base=0.1,0.2"]), c4140(), 2, Terms(one_allocation=True))
    (group,) = plan.submitted
    assert (group.name, group.size) == ("all", Size(8, 2, 4, 4, 8))
    assert [run.name for run in group.runs] == [
        *("g0001-p01-r01", "g0001-p02-r01", "g0004-p01-r01", "g0004-p02-r01", "g0008-p01-r01", "g0008-p02-r01"),
        *("g0008-p01-r02", "g0008-p02-r02", "g0004-p01-r02", "g0004-p02-r02", "g0001-p01-r02", "g0001-p02-r02"),
    ]
    assert sorted(run.name for run in plan.runs) == sorted(run.name for run in group.runs)


def test_a_path_of_weights_is_made_absolute_and_a_keyword_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, found in (("w/best.weights.h5", str(tmp_path / "w" / "best.weights.h5")), ("imagenet", "imagenet")):
        (variant,) = parameter_grid(demo(), [f"model.weights={given}"])
        assert variant.experiment.model.weights == found


def test_a_number_in_scientific_notation_needs_no_dot() -> None:
    one, two = parameter_grid(demo(), ["lr.base=1e-4,2.5E-3"])
    assert (one.experiment.lr.base, two.experiment.lr.base) == (0.0001, 0.0025)
