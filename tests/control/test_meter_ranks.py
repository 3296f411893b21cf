"""hpcjobs.meter on several ranks: a benchmark takes a step apart, the ranks meet, and no rank hangs on another."""

from __future__ import annotations

import json
import stat

import pytest

from tests.meter_scripts import CLOCK, RING, train

BENCHMARK = {"mode": "benchmark", "warmup": 4, "max_steps": 20, "control_passes": 2, "control_steps": 2}

# A rank computes 10 ms, `LATE` more on the last rank; the loader takes 5 ms.
STEPS = f"""{RING}
def loader():
    while True:
        time.sleep(0.005)
        yield [0] * 4

seen = 0
for batch in meter.steps(loader(), samples=4, sync=ring.sync):
    seen += 1
    time.sleep(0.010)
    ring.reduce()
print("not ended by the meter")
"""


def test_a_benchmark_measures_and_then_ends_all_ranks_with_success(tmp_path):
    outcome = train(tmp_path, STEPS, ranks=3, measure={**BENCHMARK, "run": "r1"})
    assert (outcome.codes, outcome.out) == ([0, 0, 0], [""] * 3), outcome.err
    keys = [event.key for event in outcome.events]
    assert keys.index("hpcjobs_warmup") < keys.index("hpcjobs_precision") < keys.index("hpcjobs_control")
    assert outcome.named("run_stop")[0].metadata["status"] == "success"
    timed = [e.metadata["steps"] for e in outcome.named("tracked_stats") if not e.metadata["warmup"]]
    assert sum(timed) == 20 == outcome.last("hpcjobs_precision")["steps"]
    run = outcome.last("hpcjobs_run")
    assert (run["gpus"], run["global_batch"], run["run"]) == (3, 12, "r1")
    assert len(run["hosts"]) == 1
    # 2 passes of (2 + 2) + (1 + 2) + (1 + 2) steps follow the timed ones, on every rank.
    steps = outcome.last("hpcjobs_warmup")["steps"] + 20 + 2 * 10
    assert [outcome.note(rank)["steps"] for rank in range(3)] == [steps] * 3


def test_control_blocks_leave_out_first_the_loader_and_then_the_all_reduce(tmp_path):
    script = STEPS.replace("    ring.reduce()\n", "    ring.reduce()\n    kinds.append((meter.METER.phase, ring.on))\n")
    script = script.replace("seen = 0", "kinds = []").replace("    seen += 1\n", "")
    script = script.replace(
        "        time.sleep(0.005)", "        time.sleep(0.005)\n        fetched.append(meter.METER.phase)"
    )
    script = (
        f"import atexit, json\nfetched = []\natexit.register(lambda: print(json.dumps([kinds, fetched])))\n{script}"
    )
    outcome = train(tmp_path, script, ranks=2, measure=BENCHMARK)
    for out in outcome.out:
        kinds, fetched = json.loads(out)
        # A generator runs ahead of `phase` by none: the first batch of (b) is taken from the loader, and kept.
        assert "c" not in fetched
        assert fetched.count("b") == 1
        phases = "".join(phase for phase, _ in kinds if phase in "abc")
        assert phases == "aaaa" + "bbb" + "ccc" + "ccc" + "bbb" + "aaaa"
        assert {on for phase, on in kinds if phase == "c"} == {False}
        assert {on for phase, on in kinds if phase != "c"} == {True}


def test_each_block_says_what_else_ran_on_the_node(tmp_path):
    script = STEPS + ""
    probe = """
attribute = meter.attribute
def kept(everyone):
    print(json.dumps(everyone))
    return attribute(everyone)
import json
meter.attribute = kept
"""
    outcome = train(tmp_path, probe + script, ranks=2, measure=BENCHMARK)
    everyone = json.loads(outcome.out[0])
    assert [one["rank"] for one in everyone] == [0, 1]
    for one in everyone:
        assert len(one["passes"]) == len(one["collectives"]) == 2
        for each in one["passes"]:
            assert [len(each[phase]) for phase in "abc"] == [2, 2, 2]
            for phase in "abc":
                load = each["load"][phase]
                assert set(load) == {"foreign_cpu", "cpu_wait", "steal", "pressure", "sm_mhz"}
                assert load["foreign_cpu"] >= 0
                assert load["sm_mhz"] is None


def test_without_a_way_to_switch_the_all_reduce_off_there_is_no_block_c(tmp_path):
    outcome = train(tmp_path, STEPS.replace(", sync=ring.sync", ""), ranks=2, measure=BENCHMARK)
    assert outcome.codes == [0, 0], outcome.err
    control = outcome.last("hpcjobs_control")
    assert control["allreduce_claimed"] is False
    assert control["input_wait_ms"] is not None
    assert [control[name] for name in ("allreduce_ms", "skew_ms", "compute_ms", "slowest_host")] == [None] * 4
    assert control["ranks"] == []
    assert outcome.note(0)["steps"] == outcome.last("hpcjobs_warmup")["steps"] + 20 + 2 * (4 + 3)


def test_control_blocks_end_at_a_check_point_once_the_parts_are_known(tmp_path):
    asked = {**BENCHMARK, "control_passes": 16, "control_steps": 1, "parts_precision": 0.3}
    probe = "meter.parts_known = lambda everyone, precision: precision == 0.3 and len(everyone[1]['passes']) >= 7\n"
    outcome = train(tmp_path, probe + STEPS, ranks=2, measure=asked)
    assert outcome.last("hpcjobs_control")["passes"] == 8


def test_one_rank_has_no_block_without_all_reduce_and_its_parts_all_the_same(tmp_path):
    script = STEPS.replace("    seen += 1\n", "    seen += 1\n    phases.add(meter.METER.phase)\n")
    script = f"import atexit\nphases = set()\natexit.register(lambda: print(sorted(phases)))\n{script}"
    outcome = train(tmp_path, script, measure=BENCHMARK)
    assert outcome.out == ["['a', 'b', 'time', 'warm']\n"], outcome.err
    control = outcome.last("hpcjobs_control")
    assert (control["allreduce_claimed"], control["allreduce_ms"], control["skew_ms"]) == (True, 0.0, 0.0)
    assert (control["half_widths"]["allreduce_ms"], control["slowest_rank"]) == (0.0, 0)
    assert control["compute_ms"] >= 10
    assert outcome.note(0)["steps"] == outcome.last("hpcjobs_warmup")["steps"] + 20 + 2 * (4 + 3)


def test_a_script_that_talks_every_seventh_step_talks_in_some_blocks(tmp_path):
    """Its collectives are counted in the timed steps of (c) alone, and the others tell the parts."""
    talk = """
    seen += 1
    if seen % 7 == 0:
        talks += 1  # such as an averaged loss
    if meter.METER.phase == "c":
        in_c.append(seen % 7 == 0)
"""
    script = STEPS.replace("    seen += 1\n", talk).replace("seen = 0", "seen, talks, in_c = 0, 0, []")
    probe = "import atexit, json\natexit.register(lambda: print(json.dumps(in_c)))\nmeter._sequence = lambda: talks\n"
    asked = {**BENCHMARK, "control_passes": 14, "parts_precision": 1e-9}
    outcome = train(tmp_path, probe + script, ranks=2, measure=asked)
    in_c = json.loads(outcome.out[0])
    # Three steps of (c) a pass, of which the first is not timed.
    talked = sum(any(in_c[first + 1 : first + 3]) for first in range(0, len(in_c), 3))
    control = outcome.last("hpcjobs_control")
    assert (len(in_c), control["passes"], control["talked"]) == (3 * 14, 14, talked)
    assert 0 < talked < sum(in_c)
    assert (control["collectives_in_c"], control["allreduce_claimed"]) == (0, True)
    assert control["passes_used"] <= 14 - talked
    assert control["allreduce_ms"] is not None


def test_only_the_first_repeats_take_a_step_apart(tmp_path):
    outcome = train(tmp_path, STEPS, ranks=2, measure=BENCHMARK, HPCJOBS_REPEAT="2")
    assert outcome.codes == [0, 0]
    assert outcome.named("hpcjobs_precision")
    assert not outcome.named("hpcjobs_control")


def test_a_script_that_ends_before_its_benchmark_says_what_it_has(tmp_path):
    script = STEPS.replace("    while True:\n        time", "    for _ in range(32):\n        time").replace(
        "print", "#"
    )
    settled = "meter.agree = lambda means, tolerance: True\n"
    outcome = train(tmp_path, settled + script, ranks=2, measure={**BENCHMARK, "max_steps": 300, "precision": 1e-6})
    assert outcome.codes == [0, 0]
    precision = outcome.last("hpcjobs_precision")
    assert precision["reached"] is False
    assert 0 < precision["steps"] < 32


def test_ranks_that_cannot_connect_all_take_the_same_fixed_numbers_of_steps(tmp_path):
    script = f"""
meter._JOIN_S = 3.0
meter._Exchange._connect = lambda self, timeout: False
{STEPS}"""
    outcome = train(tmp_path, script, ranks=2, measure=BENCHMARK)
    assert outcome.codes == [0, 0], outcome.err
    assert "the ranks take fixed numbers of steps" in outcome.err[0]
    assert outcome.last("hpcjobs_warmup")["settled"] is False
    assert outcome.last("hpcjobs_precision")["steps"] == 20
    assert outcome.last("hpcjobs_control")["passes"] == 2  # from the ranks' files
    assert outcome.note(0)["steps"] == outcome.note(1)["steps"]


def test_a_stranger_at_the_exchange_is_sent_away(tmp_path):
    script = f"""
import json, os, socket
listen = meter._Exchange._listen
def listened(self):
    listen(self)
    port = json.load(open(self.path))["port"]
    for said in (b"GET / HTTP/1.1\\r\\n\\r\\n", b'{{"rank": 1, "token": "x"}}\\n', b"[1]\\n"):
        strangers.append(socket.create_connection(("127.0.0.1", port)))
        strangers[-1].sendall(said)
strangers = []
meter._Exchange._listen = listened
{STEPS}"""
    outcome = train(tmp_path, script, ranks=2, measure=BENCHMARK)
    assert outcome.codes == [0, 0], outcome.err
    assert outcome.last("hpcjobs_control")["passes"] == 2


def test_where_to_meet_is_for_the_owner_alone_and_gone_at_the_end(tmp_path):
    probe = f"""
import json, os
listen = meter._Exchange._listen
def listened(self):
    listen(self)
    print(oct(os.stat(self.path).st_mode))
meter._Exchange._listen = listened
{STEPS}"""
    outcome = train(tmp_path, probe, ranks=2, measure=BENCHMARK)
    assert outcome.out[0] == oct(stat.S_IFREG | 0o600) + "\n"
    assert not (outcome.folder / "meter-exchange.json").exists()


@pytest.mark.parametrize("phase", ["warm", "time", "b"])
def test_a_rank_that_dies_lets_the_others_go_at_once(tmp_path, phase):
    script = STEPS.replace(
        "    seen += 1\n",
        f"    seen += 1\n    if rank == 1 and seen > 2 and meter.METER.phase == {phase!r}:\n        os._exit(9)\n",
    )
    outcome = train(tmp_path, script, ranks=3, measure=BENCHMARK)
    assert outcome.codes[1] == 9
    # The training itself ends: its all-reduce has lost a rank.
    assert outcome.codes[0] != 0
    assert not outcome.named("hpcjobs_control")


def test_if_rank_0_stumbles_all_turn_their_meters_off_and_train_on(tmp_path):
    script = STEPS.replace("    while True:\n        time", "    for _ in range(60):\n        time").replace(
        "print(", "print(seen, "
    )
    stumble = "import os\nif os.environ['RANK'] == '0':\n    meter.estimate = lambda series: 1 / 0\n"
    outcome = train(tmp_path, stumble + script, ranks=3, measure={**BENCHMARK, "warmup": 3})
    assert outcome.codes == [0, 0, 0]
    assert outcome.out == ["60 not ended by the meter\n"] * 3
    assert "the meter is off: ZeroDivisionError" in outcome.err[0]
    assert "rank 0 has turned its meter off" in outcome.err[1]
    assert [err.count("\n") for err in outcome.err] == [1, 1, 1]


def test_a_benchmark_whose_last_meeting_fails_ends_with_what_is_known(tmp_path):
    """Two passes after the look at six: these are in the ranks' files alone."""
    stumble = """
answer = meter.Meter._answer
def stumbling(self, question, everyone):
    return 1 / 0 if question == "end" else answer(self, question, everyone)
meter.Meter._answer = stumbling
"""
    asked = {**BENCHMARK, "control_passes": 8, "parts_precision": 1e-9}
    outcome = train(tmp_path, stumble + STEPS, ranks=3, measure=asked)
    assert (outcome.codes, outcome.out) == ([0, 0, 0], [""] * 3), outcome.err
    assert "the ranks do not end together: ZeroDivisionError" in outcome.err[0]
    assert outcome.last("hpcjobs_control")["passes"] == 6
    assert outcome.named("run_stop")[0].metadata["status"] == "success"
    assert [len(outcome.note(rank)["said"]["passes"]) for rank in range(3)] == [8, 8, 8]


def test_a_surprise_in_c_switches_the_all_reduce_on_again(tmp_path):
    script = """
    switched = []
    def count(batch):
        return 8 if meter.METER.phase != "c" else 1 / 0
    for batch in meter.steps([[0] * 8] * 300, samples=count, sync=switched.append):
        pass
    print(switched)
    """
    outcome = train(tmp_path, script, ranks=2, measure=BENCHMARK)
    assert (outcome.codes, outcome.out) == ([0, 0], ["[False, True]\n"] * 2)
    assert "the meter is off: ZeroDivisionError" in outcome.err[0]


@pytest.mark.parametrize(
    ("ends_after", "repeat", "missing"),
    [(20, "1", True), (32, "1", True), (20, "2", None), (10_000, "1", None)],
    ids=["while timed", "in a block", "a repeat without blocks", "not by itself"],
)
def test_a_script_that_ends_before_its_parts_are_told_says_so(tmp_path, ends_after, repeat, missing):
    script = f"{CLOCK}\nfor batch in meter.steps(loader({ends_after})):\n    spend(10)\n"
    outcome = train(tmp_path, script, measure={**BENCHMARK, "control_repeats": 1}, HPCJOBS_REPEAT=repeat)
    assert outcome.codes == [0], outcome.err
    assert bool(outcome.named("hpcjobs_control")) is (ends_after == 10_000)
    (stop,) = outcome.named("run_stop")
    assert (stop.metadata["status"], stop.metadata.get("parts_missing")) == ("success", missing)
