"""Where planted losses are found."""

import numpy as np
import pytest

from hpcjobs.chexnet.train.attribution import attribute

RANKS, STEPS = 16, 2000


def jitter(random: np.random.Generator, spread: float) -> np.ndarray:
    """Step times in ms of ranks that run free, 100 on average."""
    return 100 * (1 + spread * random.normal(size=(RANKS, STEPS)))


def coupled(times: np.ndarray, allreduce_ms: float = 0.0) -> np.ndarray:
    """What the ranks see where each step waits for the slowest."""
    return np.broadcast_to(times.max(axis=0) + allreduce_ms, times.shape)


def test_jitter_of_ranks_is_no_all_reduce():
    random = np.random.default_rng(0)
    found = attribute(*(coupled(jitter(random, 0.02)) for _ in "ab"), jitter(random, 0.02))
    assert found.skew_ms == pytest.approx(3.5, abs=0.2)  # E[max of 16 normals] = 1.77 standard deviations
    assert abs(found.allreduce_ms) < found.skew_ms / 10


def test_the_standard_errors_are_the_spread_of_many_such_measurements():
    random = np.random.default_rng(4)
    found = []
    for _ in range(300):
        no_input, as_is, alone = (jitter(random, 0.02)[:, :40] for _ in "abc")
        found.append(attribute(coupled(as_is), coupled(no_input), alone))
    for index, name in enumerate(("skew_ms", "allreduce_ms", "input_wait_ms")):
        spread = np.std([getattr(one, name) for one in found])
        assert np.mean([one.errors_ms[index] for one in found]) == pytest.approx(spread, rel=0.15)
    value = found[0].to_log(["n1"] * RANKS)
    assert value["standard_errors"]["skew_ms"] == pytest.approx(found[0].errors_ms[0], abs=1e-3)


def test_each_loss_is_found_under_its_name():
    random = np.random.default_rng(1)
    no_input = coupled(jitter(random, 0.02), allreduce_ms=7.0)
    as_is = coupled(jitter(random, 0.02), allreduce_ms=7.0) + 11.0
    found = attribute(as_is, no_input, jitter(random, 0.02))
    assert found.input_wait_ms == pytest.approx(11, rel=0.1)
    assert found.allreduce_ms == pytest.approx(7, rel=0.1)
    assert found.compute_ms == pytest.approx(100, rel=0.001)


def test_the_parts_are_the_whole():
    random = np.random.default_rng(2)
    found = attribute(*(jitter(random, 0.05) for _ in "abc"))
    parts = found.compute_ms + found.skew_ms + found.allreduce_ms + found.input_wait_ms
    assert parts == pytest.approx(found.step_ms)


def test_a_slow_rank_is_named_with_its_node():
    random = np.random.default_rng(3)
    alone = jitter(random, 0.02)
    alone[5] += 30
    found = attribute(coupled(alone), coupled(alone), alone)
    hosts = [f"node{rank // 4}" for rank in range(RANKS)]
    value = found.to_log(hosts)
    assert (value["slowest_rank"], value["slowest_host"]) == (5, "node1")
    assert found.skew_ms == pytest.approx(30 * 15 / 16, abs=0.5)
    assert value["ranks"][5]["host"] == "node1"
    assert value["ranks"][5]["min_ms"] == pytest.approx(alone[5].min(), abs=1e-3)
    assert value["ranks"][5]["median_ms"] == pytest.approx(np.median(alone[5]), abs=1e-3)
    assert value["ranks"][5]["max_ms"] == pytest.approx(alone[5].max(), abs=1e-3)
