"""How many GPUs a run has, by the lines of launchers, scripts and ranks."""

from __future__ import annotations

import math

import pytest

from hpcjobs.collect.world import Known, World


def world(text: str) -> World:
    found = World()
    found.feed(1, text.encode())
    return found


@pytest.mark.parametrize(
    ("text", "gpus", "nodes"),
    [
        ("Namespace(batch_size=8, num_gpus=8, num_workers=32)\n", 8, None),
        ("Namespace(batch_size=8, gpus='0,1,2,3', kvstore=None)\n", 4, None),
        ("args: world_size=16 rank=3\n", 16, None),
        ("RANK 5: LOCAL_RANK 5, WORLD_SIZE 8, OMP_NUM_THREADS 1\n", 8, None),
        ("python -m torch.distributed.run --standalone --nproc_per_node=8 train.py\n", 8, 1),
        ("torchrun --nproc_per_node=8 --nnodes=4 train.py\n", 32, 4),
        ("mpirun --allow-run-as-root -np 192 --hostfile hosts_24 -x PATH python train.py\n", 192, None),
        ("> mpirun -v --mca btl self,tcp \\\n>    -np 16 \\\n>    -npernode 8 \\\n", 16, 2),
        ("+ srun --ntasks=1 hostname\n+ srun --ntasks=16 --ntasks-per-node=8 ./run.sh\n", 16, 2),
        ("I am rank 4 of 8\nI am rank 0 of 8\n", 8, None),
        ("num_gpus=8 num_sockets = 2\nsrun --ntasks=16 --ntasks-per-node=8 ./run.sh\n", 16, 2),
        ("world_size=1\nusing world size: 32\n", 32, None),
        ("".join(f"[1,{rank}]<stdout>:loss 2\n" for rank in range(8)) * 3, 8, None),
        ("deepspeed --num_gpus=8 --num_nodes=4 train.py\n", 32, 4),
        ("WORLD_SIZE=2 RANK=0\n+ torchrun --nnodes=2 --nproc_per_node=8 train.py\n", 16, 2),  # of nodes, in Kubernetes
        ("srun -N 2 -n 2 torchrun --nnodes 2 --nproc_per_node 4 train.py\n", 8, 2),
        ("torchrun --nnodes=2 --nproc_per_node=4 train.py\nNumber of GPUs: 4\n", 8, 2),
        ("Namespace(batch_size=256, world_size=1, gpus='0,1,2,3')\n", 4, None),
        ("gpus=[0,1,2,3]\nnum_nodes=2\n", 8, 2),
        ("".join(f"{rank}: loss 2\n" for rank in range(8)) * 3, 8, None),
        # mlcommons/training_results_v5.0, Dell/results/2xXE9680Lx8B200-SXM-180GB/bert/result_0.txt
        (
            "+ srun -l --mpi=none --ntasks-per-node=8 ./run.sh\n"
            + "".join(f"{rank}: Run vars: id 156 gpus 8 mparams ''\n" for rank in range(16)) * 2
            + ":::MLLOG\n" * 40,
            16,
            2,
        ),
        # A size of 1 among arguments is that of a process that has not joined the others, or of nodes.
        ("Namespace(lr=0.1, world_size=1)\n", None, None),
        ("nothing\n", None, None),
    ],
)
def test_what_says_the_gpus(text: str, gpus: int | None, nodes: int | None) -> None:
    found = world(text).resolve(math.inf)
    assert (found.gpus, found.nodes, found.contradiction) == (gpus, nodes, "")


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"[1,{rank}]<stdout>:loss 2\n" for rank in range(13) if rank != 5) * 3,  # one is missing
        "".join(f"[1,{rank}]<stdout>:loss 2\n" for rank in range(8)),  # each was heard once
        "[1,0]<stdout>:loss 2\n" * 9
        + "[1,1]<stdout>:loss 2\n" * 9
        + "[1,2]<stdout>:a\n[1,2]<stdout>:b\n",  # one is late
        "[1,0]<stdout>:loss 2\n" * 9,  # one rank prints for all
    ],
)
def test_the_ranks_that_happen_to_print_are_no_number_of_gpus(text: str) -> None:
    assert world(text).resolve(math.inf).gpus is None


@pytest.mark.parametrize(
    "text",
    [
        "data parallel world size: 4\n",
        "local world size: 4, local rank 0 of 4\n",
        "dp world_size: 4, tp world_size: 2\n",
        "initialize_model_parallel: rank 3 of 4 in the tensor group\n",
        "# example: mpirun -np 16 python train.py\n",
        "  --num_gpus=8 for eight GPUs of one node\n",
        "# the learning rate is for training on 8 GPUs\nweights pretrained on 64 GPUs\n",
        "number of processes: 16 for data loading\n",
        "torchrun --nproc_per_node 4 --nnodes 1:4 train.py\n",  # elastic
        "Epoch 1\n" * 40 + "".join(f"{index}: class\n" for index in range(10)) * 2,
        "".join(f"[rank{rank}]: Traceback\n" for rank in (0, 1)) * 20,  # those of one node that failed
    ],
)
def test_parts_examples_and_lists_are_no_number_of_gpus(text: str) -> None:
    found = world(text).resolve(math.inf)
    assert (found.gpus, found.contradiction) == (None, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("+ srun --ntasks=64 ./prepare\n+ srun --ntasks=8 ./train\n", "may both be the training"),
        ("Number of devices: 4\nNumber of nodes: 2\n", "may be of one of 2 nodes or of all"),
        ("mpirun -np 3 torchrun --nproc_per_node=8 train.py\n", "contradict each other"),
        ("Namespace(ngpus_per_node=4, world_size=2)\n", "contradict each other"),
    ],
)
def test_what_may_be_a_part_or_all_is_refused(text: str, why: str) -> None:
    found = world(text).resolve(math.inf)
    assert found.gpus is None
    assert why in found.contradiction


def test_a_launcher_after_the_runs_begin_starts_something_else() -> None:
    found = world("mpirun -np 8 python train.py\nstep 1\nmpirun -np 2 python evaluate.py\n")
    assert found.resolve(math.inf, begin=2).gpus == 8


def test_statements_that_cannot_both_hold_are_named() -> None:
    found = world("mpirun -np 16 ./a\nx\nworld_size=12\n").resolve(math.inf)
    assert found.gpus is None
    assert found.contradiction == "world_size=12 (line 3: 12) and mpirun -np 16 (line 1: 16) contradict each other"
    tags = "".join(f"[1,{rank}]<stdout>:loss 2\n" for rank in range(8)) * 3
    found = world("number of GPUs: 4\n" + tags).resolve(math.inf, alone=True)
    assert found.contradiction == "number of GPUs: 4 (line 1: 4), but rank 7 prints lines"


def test_a_later_run_has_its_own_launcher() -> None:
    found = world("mpirun -np 2 ./a\nx\nmpirun -np 4 ./a\n")
    assert found.resolve(2).gpus == 2
    found.since = 2
    assert found.resolve(9).gpus == 4


@pytest.mark.parametrize(
    ("text", "known", "gpus"),
    [
        ("Number of GPUs: 4\n", Known(8, 2), 8),
        ("Number of GPUs: 4\n", Known(8, 1), 4),
        ("Number of GPUs: 4\n", Known(16, 2), 4),
        ("world size: 4\n", Known(8, 2), 4),  # never that of a node
    ],
)
def test_gpus_of_a_node_are_those_of_a_known_run(text: str, known: Known, gpus: int) -> None:
    assert world(text).resolve(math.inf, known=known).gpus == gpus


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("Using device: cpu\n", True),
        ("Namespace(device='cpu', world_size=4)\n", True),
        ("using CPU, this will be slow\n", True),  # PyTorch's ImageNet example
        ("device: cuda\n", False),
        ("map_location: device='cpu'\ndevice: cuda:0\n", False),
        ("using CPU memory for the cache\n", False),
    ],
)
def test_a_training_on_cpus_is_known_by_what_its_script_says(text: str, cpu: bool) -> None:
    assert (world(text).cpu > 0) is cpu
