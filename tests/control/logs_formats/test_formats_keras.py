"""The progress of all versions of Keras. Keras prints neither batch nor GPUs: without a script's word there is no rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.logs_formats.reading import one, read, reasons

SAYS = "Number of devices: 4\nGlobal batch size: 128\n"
BAR = "=" * 30
BIG = "━" * 20


def bar3(step: int, steps: int, time: str, rest: str) -> str:
    """A line of Keras 3 on a terminal: colours, then backspaces and a carriage return before the next."""
    return f"\x1b[1m{step}/{steps}\x1b[0m \x1b[32m{BIG}\x1b[0m\x1b[37m\x1b[0m \x1b[1m{time}\x1b[0m {rest}"


EPOCHS = {
    "tf1, verbose 2": "4096/4096 - {s}s - loss: 0.1983 - val_loss: 0.1414\n",
    "tf2.6, verbose 2": "4096/4096 - {s}s - loss: 0.1983 - val_loss: 0.1414 - {s}s/epoch - {ms}ms/step\n",
    "keras 3, verbose 2": "4096/4096 - {s}s - {ms}ms/step - accuracy: 0.5 - loss: 0.1983 - val_loss: 0.1414\n",
    "bar": f"4096/4096 [{BAR}] - {{s}}s {{ms}}ms/step - loss: 0.1983 - val_loss: 0.1414\n",
    "bar, old": f"4096/4096 [{BAR}] - {{s}}s - loss: 0.1983 - val_loss: 0.1414\n",
    "keras 3, file": f"4096/4096 {BIG} {{s}}s {{ms}}ms/step - loss: 0.1983 - val_loss: 0.1414\n",
    "keras 3, terminal": bar3(1, 4096, "5:12", "3s/step - loss: 0.7") + "\b" * 80 + "\r"
    + bar3(4096, 4096, "0s", "99ms/step - loss: 0.2") + "\b" * 80 + "\r"
    + bar3(4096, 4096, "{s}s", "{ms}ms/step - loss: 0.1983 - val_loss: 0.1414\n"),
}  # fmt: skip


@pytest.mark.parametrize("age", EPOCHS)
@pytest.mark.parametrize("prefix", ["", "[1,0]<stdout>:", "0: "])
def test_epochs_of_every_age(tmp_path: Path, age: str, prefix: str) -> None:
    lines = SAYS
    for number, seconds in enumerate((900, 749, 749), 1):
        lines += f"Epoch {number}/3\n" + EPOCHS[age].format(s=seconds, ms=round(seconds / 4.096))
    measured = one(read(tmp_path, "".join(prefix + line + "\n" for line in lines.split("\n") if line)))
    assert measured.epoch_s == pytest.approx(749.0, rel=0.003)  # the first is cold
    assert measured.step_ms == pytest.approx(749 / 4.096, rel=0.003)
    assert measured.throughput == pytest.approx(4096 * 128 / 749, rel=0.003)
    assert (measured.gpus, measured.local_batch, measured.unit) == (4, 32, "samples")
    assert measured.flags == ("validation_in_epoch",)


def test_without_a_batch_there_is_no_rate(tmp_path: Path) -> None:
    result = read(tmp_path, "Epoch 1/1\n4096/4096 - 749s - loss: 0.1983 - val_loss: 0.1414\n")
    measured = one(result)
    assert (measured.throughput, measured.gpus, measured.step_ms) == (None, None, pytest.approx(182.86, abs=0.01))
    assert measured.missing == ("throughput", "gpus", "batch")
    assert "gives the time of a step, but not the batch" in reasons(result)


def test_a_line_of_every_rank_counts_once(tmp_path: Path) -> None:
    text = "Epoch 1/2\n" * 4 + "".join(f"100/100 - {s}s - loss: 0.{s}\n" for s in (50, 50, 51, 53))
    text += "Epoch 2/2\n" * 4 + "".join(f"100/100 - {s}s - loss: 0.{s}\n" for s in (40, 40, 41, 43))
    measured = one(read(tmp_path, text))
    assert measured.epoch_s == pytest.approx(41.0)
    assert measured.steady is not None
    assert measured.steady.windows == 1
    tagged = "".join(f"[1,{rank}]<stdout>:100/100 - {40 + rank}s - loss: 0.1 - val_loss: 0.2\n" for rank in (0, 1, 2))
    assert one(read(tmp_path, tagged)).epoch_s == pytest.approx(41.0)
    alike = "100/100 - 749s - loss: 0.1983 - val_loss: 0.1414\n" * 8
    assert one(read(tmp_path, alike)).steady.windows == 1  # type: ignore[union-attr]


def test_evaluation_is_not_an_epoch(tmp_path: Path) -> None:
    text = f"Epoch 1/1\n100/100 [{BAR}] - 50s 500ms/step - loss: 0.5\n313/313 [{BAR}] - 4s 13ms/step - loss: 0.7 - accuracy: 0.9\n"
    assert one(read(tmp_path, text)).epoch_s == 50.0
    result = read(tmp_path, f"313/313 [{BAR}] - 4s 13ms/step - loss: 0.7\n")
    assert result.measurements == ()


def test_what_counts_samples(tmp_path: Path) -> None:
    for line in (
        f"60000/60000 [{BAR}] - 4s 66us/sample - loss: 0.3",
        f"60000/60000 [{BAR}] - 4s 66us/step - loss: 0.3",
    ):
        text = f"Train on 60000 samples, validate on 10000 samples\nEpoch 1/1\n{line}\n"
        measured = one(read(tmp_path, text))
        assert measured.throughput == pytest.approx(1e6 / 66)
        assert measured.step_ms is None


def test_two_trainings_in_one_file(tmp_path: Path) -> None:
    text = "".join(f"Epoch {n}/2\n10/10 - {s}s - loss: 0.3\n" for n, s in ((1, 9), (2, 5), (1, 9), (2, 7)))
    result = read(tmp_path, text)
    assert [run.epoch_s for run in result.measurements] == [5.0, 7.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("says", "gpus", "whole"),
    [
        ("Number of GPUs: 8\nbatch size per replica: 16", 8, 128),
        ("world_size=8, local_batch_size=16", 8, 128),
        ("torchrun --nnodes=2 --nproc_per_node=4 train.py\nglobal batch size = 128", 8, 128),
        ("Number of devices: 1\nbatch_size: 64", 1, 64),
        ("Number of devices: 4\nbatch_size: 64", 4, None),  # of one or of all: left open
        ("Num GPUs Available: 4\nbatch_size: 64", None, None),  # not how many were used
    ],
)
def test_what_scripts_say_about_gpus_and_batch(tmp_path: Path, says: str, gpus: int | None, whole: int | None) -> None:
    measured = one(read(tmp_path, f"{says}\nEpoch 1/1\n100/100 - 50s - loss: 0.5\n"))
    assert (measured.gpus, measured.global_batch) == (gpus, whole)
    assert measured.throughput == (pytest.approx(2 * whole) if whole else None)
