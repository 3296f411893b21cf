"""Whole runs of real ranks under mpirun."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from hpcjobs.base.contract import TRAIN_LOG, ErrorCode
from hpcjobs.chexnet.classes import CLASSES, DATASET_JSON
from hpcjobs.chexnet.train.__main__ import _prepare_environment, read_config
from hpcjobs.chexnet.train.failure import TrainError
from tests.train.launch import HANGS_S, Outcome, command, environment, make_run, read_log, train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A demo-like run of two ranks: 40 steps of 8 images, 26 an epoch; prints the digests of the ranks' weights."""
    run_yaml = make_run(tmp_path_factory.mktemp("two") / "g0002-r01", data, gpus=2, train={"epochs": 2})
    outcome = train(run_yaml, 2, [HERE / "weights_of_ranks.py"])
    assert outcome.rc == 0, outcome.stderr
    return outcome


def events(outcome: Outcome, key: str) -> list[dict]:
    return [event for event in read_log(outcome.attempt) if event["key"] == key]


def test_the_log_tells_the_run_in_order(two: Outcome):
    keys = [event["key"] for event in read_log(two.attempt)]
    epoch = ["epoch_stop", "eval_start", "eval_accuracy", "eval_stop", "hpcjobs_checkpoint"]
    assert [key for key in keys if key != "tracked_stats"] == [
        *("submission_benchmark", "init_start", "hpcjobs_run", "seed", "global_batch_size", "train_samples"),
        *("eval_samples", "opt_name", "opt_base_learning_rate", "init_stop", "run_start"),
        *("epoch_start", "hpcjobs_first_step", *epoch, "epoch_start", *epoch, "run_stop"),
        *("eval_start", "eval_accuracy", "eval_stop"),
    ]
    assert events(two, "run_stop")[0]["metadata"]["status"] == "success"
    (run,) = events(two, "hpcjobs_run")
    expected = {"gpus": 2, "global_batch": 8, "train_images": 209, "steps_per_epoch": 26, "steps": 40}
    assert expected | run["value"] == run["value"]
    assert (run["value"]["epochs"], run["value"]["cut_short"]) == (2, True)
    assert len(run["value"]["hosts"]) == run["value"]["nodes"] == 1


def test_windows_hold_steps_of_one_epoch_and_of_one_side_of_the_warm_up(two: Outcome):
    windows = [event["metadata"] for event in events(two, "tracked_stats")]
    assert [(window["step"], window["steps"]) for window in windows] == [
        *((5, 5), (7, 2), (12, 5), (17, 5), (22, 5), (26, 4)),
        *((31, 5), (36, 5), (40, 4)),
    ]
    assert [window["step"] for window in windows if window["warmup"]] == [5, 7]
    assert [window["epoch_num"] for window in windows] == [1] * 6 + [2] * 3


def test_windows_give_the_throughput_of_all_ranks(two: Outcome):
    for event in events(two, "tracked_stats"):
        value = event["value"]
        assert value["throughput"] == pytest.approx(8 * 1000 / value["step_ms"])
        assert 0 < value["loss"] < 5


def test_the_ranks_end_with_the_same_weights_and_moving_statistics(two: Outcome):
    first, second = json.loads(two.stdout)
    assert first == second


def test_ranks_are_quiet_and_leave_their_files(two: Outcome):
    assert two.stderr == ""
    assert not two.aborts
    (node,) = two.attempt.glob("node-*.json")
    expected = {"cpus_per_task": 1, "tensorflow": "2.15.1", "mpi_built": True}
    assert json.loads(node.read_text()).items() >= expected.items()
    saved = two.attempt.parent / "checkpoints"
    assert sorted(path.name for path in saved.iterdir()) == ["best.weights.h5", "step-00000026", "step-00000040"]


def test_the_auc_is_that_of_one_rank_however_many_evaluate(two: Outcome, data: Path):
    from sklearn.metrics import roc_auc_score

    from hpcjobs.chexnet.data.dataset import load_dataset
    from hpcjobs.chexnet.data.tfrecord import read_examples
    from hpcjobs.chexnet.train.model import build

    records = [record for file in load_dataset(data).files("val") for record in read_examples(Path(file))]
    pixels = np.stack([np.frombuffer(record.image, np.uint8).reshape(64, 64, 1) for record in records])
    labels = np.stack([np.frombuffer(record.labels, np.uint8) for record in records])
    last = two.attempt.parent / "checkpoints" / "step-00000040" / "model.weights.h5"
    predictions = build("densenet_tiny", (64, 64), 127.5, 73.9, str(last)).predict(pixels, verbose=0)
    defined = [i for i, name in enumerate(CLASSES) if name != "Hernia"]
    expected = {CLASSES[i]: roc_auc_score(labels[:, i], predictions[:, i]) for i in defined}

    with (two.attempt / "auc.csv").open() as file:
        written = {row["class"]: row["auc"] for row in csv.DictReader(file) if row["split"] == "val"}
    assert written.pop("Hernia") == ""
    assert float(written.pop("mean")) == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert {name: float(auc) for name, auc in written.items()} == pytest.approx(expected, abs=1e-6)

    scores = json.loads(train(two.attempt.parent / "run.yaml", 3, [HERE / "evaluate_checkpoint.py"]).stdout)
    assert scores["val"]["images"] == 35
    assert {CLASSES[i]: scores["val"]["auc"][i] for i in defined} == pytest.approx(expected, abs=1e-6)
    assert scores["test"]["images"] == 2  # One rank of the three had none.
    accuracy = events(two, "eval_accuracy")[1]
    assert accuracy["metadata"]["undefined"] == ["Hernia"]
    assert scores["val"]["loss"] == pytest.approx(accuracy["metadata"]["loss"], abs=1e-6)


def assert_gave_up(outcome: Outcome, code: str, text: str, rank: int = 0) -> None:
    """One rank, one line, one file; and no traceback."""
    assert outcome.rc != 0
    (line,) = outcome.errors
    assert line.startswith(f"hpcjobs: error: {code}: ")
    assert text in line
    assert "Traceback" not in outcome.stderr
    ((name, abort),) = outcome.aborts.items()
    assert name == f"abort-r{rank:03d}.json"
    assert (abort["code"], abort["rank"]) == (code, rank)
    assert text in abort["message"]


def test_ranks_that_resume_have_the_same_weights(two: Outcome, data: Path, tmp_path: Path):
    """On from the end of the first epoch: from the newest checkpoint, which rank 0 alone reads."""
    run_yaml = make_run(tmp_path / "run", data, gpus=2, train={"epochs": 2})
    saved = run_yaml.parent / "checkpoints"
    saved.mkdir()
    shutil.copytree(two.attempt.parent / "checkpoints" / "step-00000026", saved / "step-00000026")
    outcome = train(run_yaml, 2, [HERE / "weights_of_ranks.py"])
    assert outcome.rc == 0, outcome.stderr
    assert [event["value"] for event in events(outcome, "hpcjobs_resumed")] == [26]
    first, second = json.loads(outcome.stdout)
    assert first == second
    assert first == json.loads(two.stdout)[0]  # as if nothing had happened


def test_every_option_of_the_recipe_at_once(data: Path, tmp_path: Path):
    options = {
        "model": {"head_bias": "frequency"},
        "batch": {"local": 4, "passes": 2},
        "train": {"precision": "mixed_float16", "clip_norm": 1.0, "class_weights": "inverse", "checkpoint_min": 0.001},
        "lr": {"scaling": "sqrt", "reference_batch": 2, "warmup_epochs": 0.5},
        "horovod": {"compression": "fp16", "fusion_mib": 1.5, "cycle_ms": 2.0},
        "augment": {"rotate_degrees": 5.0, "shift": 0.05},
    }
    options["train"] |= {"epochs": 1, "steps": 200, "test": False}
    outcome = train(make_run(tmp_path / "run", data, gpus=2, **options), 2)
    assert outcome.rc == 0, outcome.stderr
    losses = [event["value"]["loss"] for event in events(outcome, "tracked_stats")]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert events(outcome, "opt_base_learning_rate")[0]["value"] == pytest.approx(0.002)
    steps = [event["metadata"]["step"] for event in events(outcome, "hpcjobs_checkpoint")]
    assert len(steps) > 1  # within the epoch, too
    assert all(event["value"]["seconds"] > 0 for event in events(outcome, "hpcjobs_checkpoint"))


def test_horovod_is_told_its_settings(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    horovod = {"fusion_mib": 1.5, "cycle_ms": 2.0}
    _prepare_environment(read_config(make_run(tmp_path / "run", data, gpus=1, horovod=horovod)), tmp_path)
    assert os.environ["HOROVOD_FUSION_THRESHOLD"] == str(3 << 19)
    assert os.environ["HOROVOD_CYCLE_TIME"] == "2.0"


def test_a_missing_data_folder_is_told_once(tmp_path: Path):
    outcome = train(make_run(tmp_path / "run", tmp_path / "nowhere", gpus=2), 2)
    assert_gave_up(outcome, ErrorCode.DATA_MISSING, "hpcjobs data prepare")


def test_another_order_of_classes_is_refused(data: Path, tmp_path: Path):
    from hpcjobs.chexnet.train.setup import open_dataset

    description = json.loads((data / DATASET_JSON).read_text())
    description["classes"][6:8] = reversed(CLASSES[6:8])  # Pneumonia and Pneumothorax.
    (tmp_path / DATASET_JSON).write_text(json.dumps(description))
    with pytest.raises(TrainError, match="its classes are not these in this order: Atelectasis, ") as caught:
        open_dataset(tmp_path)
    assert caught.value.code == ErrorCode.DATA_MISMATCH


@pytest.mark.parametrize(("split", "record", "steps"), [("train", 7, 26), ("val", 3, 14)])
def test_one_flipped_byte_ends_all_ranks_with_shard_and_record(
    split: str, record: int, steps: int, data: Path, tmp_path: Path
):
    other = tmp_path / "data"
    shutil.copytree(data, other)
    victim = sorted(other.glob(f"{split}-*"))[0]
    content = bytearray(victim.read_bytes())
    each = len(content) // (100 if split == "train" else 20)
    content[(record - 1) * each + each // 2] ^= 255
    victim.write_bytes(content)
    outcome = train(make_run(tmp_path / "run", other, gpus=2, train={"steps": steps}), 2)
    assert outcome.rc != 0
    for line in outcome.errors:  # Of each rank that met it.
        assert line.startswith("hpcjobs: error: data_damaged: ")
        assert f"{victim}: record {record}: " in line
        assert f"`hpcjobs data verify {other}`" in line
    assert 1 <= len(outcome.errors) == len(outcome.aborts)
    assert "Traceback" not in outcome.stderr
    if "abort-r000.json" in outcome.aborts:  # Else rank 0, which logs, was ended from outside.
        assert read_log(outcome.attempt)[-1]["metadata"]["status"] == "aborted"


def test_a_rank_count_that_run_yaml_does_not_say_is_refused(data: Path, tmp_path: Path):
    run_yaml = make_run(tmp_path / "run", data, gpus=2)
    assert_gave_up(train(run_yaml, 1), ErrorCode.RUN_YAML, "run.yaml says gpus 2, but Horovod started 1")


def test_a_run_yaml_that_is_none_is_kept_as_an_error(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("version: 1\n")
    for path, text in ((tmp_path / "run.yaml", "not a run.yaml of this hpcjobs"), (tmp_path / "no", "cannot be read")):
        error = read_config(path)
        assert isinstance(error, TrainError)
        assert error.code == ErrorCode.RUN_YAML
        assert text in error.message


def test_a_loss_that_is_not_a_number_is_named(data: Path, tmp_path: Path):
    from hpcjobs.chexnet.train.model import build

    model = build("densenet_tiny", (64, 64), 127.5, 73.9)
    model.get_layer("findings").bias.assign([np.nan] * 14)  # Further up, ReLU on a CPU would make it 0.
    model.save_weights(tmp_path / "nan.weights.h5")
    run_yaml = make_run(tmp_path / "run", data, gpus=1, model={"weights": str(tmp_path / "nan.weights.h5")})
    assert_gave_up(train(run_yaml, 1), ErrorCode.NAN_LOSS, "the loss is nan at step 1")


def test_a_killed_rank_ends_the_job(data: Path, tmp_path: Path):
    run_yaml = make_run(tmp_path / "run", data, gpus=2, train={"steps": 1_000_000, "evaluate": False})
    attempt = run_yaml.parent / "a001"
    job = subprocess.Popen(
        command(2, ["-m", "hpcjobs.chexnet.train", run_yaml, "--attempt", attempt]),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + HANGS_S
        while not ((attempt / TRAIN_LOG).is_file() and "hpcjobs_first_step" in (attempt / TRAIN_LOG).read_text()):
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.2)
        ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        assert len(ranks) == 2
        os.kill(int(ranks[1]), signal.SIGKILL)
        deadline = time.monotonic() + HANGS_S
        assert job.wait(timeout=HANGS_S) != 0
    finally:
        job.kill()
    while any(alive(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def alive(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
