"""A number of GPUs is a multiple of those that share a model: else nobody knows it, and the log's line is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hpcjobs.collect.measurements import Throughput
from hpcjobs.collect.reading import read_log
from hpcjobs.collect.world import OF_OPTION, Known
from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.truth import Truth
from tests.running import hpcjobs

# Steps that say the batch, but no GPUs.
STEPS = "".join(
    f" iteration {at:8d}/ 5000 | elapsed time per iteration (ms): 858.6 | global batch size:    48 | lm loss: 9.6E+00 |\n"
    for at in range(10, 60, 10)
)


def read(folder: Path, text: str, gpus: int | None) -> tuple[Throughput, str]:
    path = folder / "some.log"
    path.write_text(text)
    result = read_log(path, known=Known(gpus, source=OF_OPTION) if gpus else None)
    (one,) = result.measurements
    assert isinstance(one, Throughput)
    return one, "; ".join(problem.reason for problem in result.problems)


# As NVIDIA's Megatron-LM, EleutherAI's GPT-NeoX, NeMo, MLPerf's logs, MaxText and torchtitan print them.
@pytest.mark.parametrize(
    ("head", "shared", "said"),
    [
        ("  tensor_model_parallel_size ...................... 2\n", 2, "tensor_model_parallel_size 2 (line 1)"),
        (
            "  model_parallel_size ..... 2\n  pipe-parallel-size ..... 2\n",
            4,
            "model_parallel_size 2 (line 1) x pipe-parallel-size 2 (line 2)",
        ),
        (
            "+ python pretrain_gpt.py --tensor-model-parallel-size 2 --pipeline-model-parallel-size=4\n",
            8,
            "tensor-model-parallel-size 2 (line 1) x pipeline-model-parallel-size 4 (line 1)",
        ),
        (
            "tensor_model_parallel_size: 2\ncontext_parallel_size: 2\nexpert_model_parallel_size: 8\n",
            4,
            "tensor_model_parallel_size 2 (line 1) x context_parallel_size 2 (line 2)",
        ),
        (
            '{"key": "tensor_parallelism", "value": 2, "metadata": {}}\n',
            2,
            "tensor_parallelism 2 (line 1)",
        ),
        (
            "Config param ici_tensor_parallelism: 4\nConfig param ici_fsdp_parallelism: -1\n",
            4,
            "ici_tensor_parallelism 4 (line 1)",
        ),
        ("  'tensor_parallel_degree': 2,\n", 2, "tensor_parallel_degree 2 (line 1)"),
    ],
)
def test_gpus_that_are_given_are_a_multiple_of_those_that_share_a_model(
    tmp_path: Path, head: str, shared: int, said: str
) -> None:
    one, problems = read(tmp_path, head + STEPS, 3)
    assert (one.gpus, one.per_gpu, one.gpus_from) == (None, None, "")
    assert problems == f"--gpus 3 is no multiple of {said}: the number of GPUs is not known"
    for times in (1, 3):
        one, problems = read(tmp_path, head + STEPS, times * shared)
        assert (one.gpus, one.gpus_from, problems) == (times * shared, "option", "")


@pytest.mark.parametrize(
    "head",
    [
        "  virtual_pipeline_model_parallel_size ... 2\n  expert_tensor_parallel_size ... 2\n",
        "vllm: tensor_parallel_size=2\n",  # an inference beside the training
        "tensor_model_parallel_size: 2\ntensor_model_parallel_size: 1\n",  # of two models
        "# --tensor-model-parallel-size 2 needs NVLink\n",
        "tensor model parallel rank: 2, data-parallel-size: 2\n",
    ],
)
def test_what_is_no_part_of_all_gpus_contradicts_no_number(tmp_path: Path, head: str) -> None:
    assert read(tmp_path, head + STEPS, 3)[0].gpus == 3


def test_gpus_of_the_log_are_checked_too(tmp_path: Path) -> None:
    head = (
        "using world size: 6, data-parallel-size: 2, tensor-model-parallel size: 4, pipeline-model-parallel size: 1\n"
    )
    said = "6 GPUs (line 1) are no multiple of tensor-model-parallel size 4 (line 1)"
    for given, more in ((None, ""), (3, ", and --gpus 3 is neither")):
        one, problems = read(tmp_path, head + STEPS, given)
        assert one.gpus is None
        assert problems == f"{said}{more}: the number of GPUs is not known"


def test_a_rate_of_all_is_not_reckoned_with_gpus_that_are_refused(tmp_path: Path) -> None:
    lines = MADE["paddle"].make(dataclasses.replace(Truth(), gpus=8)).splitlines(keepends=True)[1:]
    one, problems = read(tmp_path, "mp_degree: 2\ntensor_model_parallel_size: 2\n" + "".join(lines), 3)
    assert (one.gpus, one.throughput, one.global_batch) == (None, None, None)
    assert "--gpus 3 is no multiple of tensor_model_parallel_size 2 (line 2)" in problems


@pytest.mark.parametrize(
    "how", [(), ("--pattern", r"iteration \(ms\): (?P<step_ms>[\d.]+)", "--batch", "48", "--warmup", "1")]
)
def test_the_command_names_it_and_gives_no_row(tmp_path: Path, how: tuple[str, ...]) -> None:
    (tmp_path / "a.log").write_text("  tensor_model_parallel_size ..... 2\n" + STEPS)
    refused = hpcjobs("collect", "--logs", "a.log", "--gpus", "3", "--json", *how, cwd=tmp_path, code=1)
    assert json.loads(refused.stdout) == []
    assert "no multiple of tensor_model_parallel_size 2 (line 1)" in refused.stderr
