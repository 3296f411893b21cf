"""Which GPU a rank takes: pure choices, tried without a GPU."""

import pytest

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train.device import check_distinct, choose
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.nodes.nvidia import visible_uuids

LISTING = """\
GPU 0: Tesla V100-SXM2-32GB (UUID: GPU-aaaa-0)
GPU 1: Tesla V100-SXM2-32GB (UUID: GPU-bbbb-1)
GPU 2: Tesla V100-SXM2-32GB (UUID: GPU-cccc-2)
GPU 3: Tesla V100-SXM2-32GB (UUID: GPU-dddd-3)
"""


def test_ranks_that_see_all_gpus_take_one_each():
    assert [choose(4, rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [choose(4, rank, 2) for rank in range(2)] == [0, 1]


def test_a_rank_that_sees_one_gpu_takes_it_whatever_its_local_rank():
    assert [choose(1, rank, 4) for rank in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("visible", "local_size", "text"), [(0, 1, "sees no GPU"), (3, 4, "4 ranks on this host but 3")]
)
def test_too_few_gpus_are_named(visible: int, local_size: int, text: str):
    with pytest.raises(TrainError, match=text) as caught:
        choose(visible, 0, local_size)
    assert caught.value.code == ErrorCode.DEVICE_MISSING


@pytest.mark.parametrize(
    ("cuda_visible_devices", "expected"),
    [
        (None, ["GPU-aaaa-0", "GPU-bbbb-1", "GPU-cccc-2", "GPU-dddd-3"]),
        ("2", ["GPU-cccc-2"]),
        ("3,0", ["GPU-dddd-3", "GPU-aaaa-0"]),
        ("GPU-bbbb", ["GPU-bbbb-1"]),
        ("MIG-1234", ["MIG-1234"]),
        ("0,-1,2", ["GPU-aaaa-0"]),
        ("", []),
    ],
)
def test_visible_uuids_follow_cuda_visible_devices(cuda_visible_devices: str | None, expected: list[str]):
    assert visible_uuids(LISTING, cuda_visible_devices) == expected


def test_two_ranks_of_a_host_on_one_gpu_are_refused_by_name():
    with pytest.raises(TrainError, match="ranks 1 and 3 on n01 both use GPU GPU-b") as caught:
        check_distinct([("n01", "GPU-a"), ("n01", "GPU-b"), ("n02", "GPU-b"), ("n01", "GPU-b")])
    assert caught.value.code == ErrorCode.DEVICE_SHARED


def test_gpus_of_unknown_uuid_and_of_other_hosts_are_no_clash():
    check_distinct([("n01", None), ("n01", None), ("n01", "GPU-0"), ("n02", "GPU-0")])
