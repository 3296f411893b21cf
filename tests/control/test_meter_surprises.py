"""hpcjobs.meter where a training or its machine does what nobody expects: it is never broken, changed or hung."""

from __future__ import annotations

import json

import pytest

from tests.meter_scripts import CLOCK, RING, train

BENCHMARK = {"mode": "benchmark", "warmup": 4, "max_steps": 20, "control_passes": 2, "control_steps": 2}
FAILS = f"""{CLOCK}
seen = 0
ERRORS
for batch in meter.steps(loader(9), samples=lambda batch: 1 / 0):
    seen += 1
print(seen)
"""


@pytest.mark.parametrize("errors", ["sys.stderr.close()", "sys.stderr = open('/dev/full', 'w')", "sys.stderr = None"])
def test_a_warning_that_cannot_be_written_ends_no_training(tmp_path, errors):
    outcome = train(tmp_path, FAILS.replace("ERRORS", errors) + "import os\nsys.stdout.flush()\nos._exit(0)\n")
    assert outcome.codes == [0], outcome.err
    assert outcome.out[0].endswith("9\n")


@pytest.mark.parametrize(
    "handler",
    ["handler", "Job().hear", "functools.partial(handler)", "Job()"],
    ids=["function", "method", "partial", "object"],
)
def test_what_a_signal_handler_raises_within_the_meter_reaches_the_script(tmp_path, handler):
    script = f"""
import functools, os, signal

class Preempted(Exception):
    pass

def handler(number, frame):
    raise Preempted

class Job:
    def hear(self, number, frame):
        raise Preempted
    def __call__(self, number, frame):
        raise Preempted

signal.signal(signal.SIGUSR1, {handler})

def wait():  # for the device, when the job is told to stop
    if meter.METER.step == 5:
        os.kill(os.getpid(), signal.SIGUSR1)

seen = 0
try:
    for batch in meter.steps([[0]] * 20, wait=wait):
        seen += 1
except Preempted:
    print("a checkpoint after", seen)
"""
    outcome = train(tmp_path, script, measure={"mode": "benchmark"})
    assert (outcome.codes, outcome.out) == ([0], ["a checkpoint after 6\n"]), outcome.err


def test_a_program_that_the_training_starts_does_not_take_its_log(tmp_path):
    script = f"""{CLOCK}
import subprocess
for number, batch in enumerate(meter.steps(loader(6 if len(sys.argv) == 1 else 50))):
    spend(10)
    if number == 3 and len(sys.argv) == 1:
        evaluation = subprocess.run([sys.executable, "-I", "-S", __file__, "child"], capture_output=True, text=True)
        print(evaluation.returncode, evaluation.stderr)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 5})
    assert "0 hpcjobs: warning: the meter is off: RuntimeError: another process of rank 0" in outcome.out[0]
    assert [(e.metadata["step"], e.value["step_ms"]) for e in outcome.named("tracked_stats")] == [
        (6, pytest.approx(10))
    ]
    assert (outcome.note()["steps"], outcome.note()["off"]) == (6, None)
    assert not (outcome.folder / "train.1.log").exists()


def test_a_child_that_outlives_the_training_does_not_keep_the_next_start_from_its_log(tmp_path):
    script = f"""{CLOCK}
import os, signal, time
for number, batch in enumerate(meter.steps(loader(5))):
    spend(10)
    if number == 3 and not os.path.exists(sys.argv[0] + ".began"):
        open(sys.argv[0] + ".began", "w").close()
        if os.fork() == 0:  # a loader's worker
            os.close(1), os.close(2)
            time.sleep(20)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert train(tmp_path, script).codes == [-9]
    outcome = train(tmp_path, script)
    assert (outcome.codes, outcome.err) == ([0], [""])
    assert (outcome.folder / "train.1.log").exists()


def test_samples_that_are_told_count_whatever_the_first_dimension_of_a_batch_is(tmp_path):
    script = f"""{CLOCK}
class Nodes:
    def __init__(self, count):
        self.shape = (count, 4)

for batch in meter.steps([Nodes(50 + 37 * number % 100) for number in range(10)], samples=64):
    spend(10)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 3})
    assert {round(e.value["throughput"]) for e in outcome.named("tracked_stats")} == {6400}
    assert "local_batch_varies" not in outcome.last("hpcjobs_run")


def test_no_epoch_is_emptied_to_drain_the_loader(tmp_path):
    script = f"""{CLOCK}
class Loader(list):
    num_workers, prefetch_factor = 8, 2

for epoch in range(200):
    seen = 0
    for batch in meter.steps(Loader([[0] * 8] * 5)):
        spend(10)
        seen += 1
    assert seen
"""
    outcome = train(tmp_path, script, measure={**BENCHMARK, "warmup": 3, "max_steps": 22})
    assert outcome.codes == [0], outcome.err
    assert outcome.last("hpcjobs_control")["passes"]


def test_the_time_in_the_loader_is_that_of_timed_steps_in_the_note_too(tmp_path):
    script = f"""{CLOCK}
def starting():  # its workers
    spend(3000)
    yield from loader(7, ms=2)

for epoch in range(3):
    for batch in meter.steps(starting()):
        spend(8)
"""
    outcome = train(tmp_path, script, measure={"warmup": 2, "window_steps": 3})
    assert {round(e.value["input_wait_ms"], 6) for e in outcome.named("tracked_stats")} == {2}
    assert outcome.note()["loader_ms"] == pytest.approx(2)


def test_a_loader_without_a_length_is_true_and_can_be_copied(tmp_path):
    script = """
    import copy
    wrapped = meter.steps(iter([1, 2]))
    assert wrapped and list(copy.copy(wrapped)) == [1, 2]
    """
    outcome = train(tmp_path, script)
    assert outcome.codes == [0], outcome.err


def test_the_job_scripts_number_of_tasks_is_not_that_of_one_process_in_it(tmp_path):
    outcome = train(
        tmp_path, "list(meter.steps([[0]] * 3))", SLURM_NTASKS="8", SLURM_PROCID="0", WORLD_SIZE="", RING_PORT=""
    )
    assert outcome.last("hpcjobs_run")["gpus"] == 1


def test_a_log_on_a_full_disk_ends_in_one_damaged_line_at_most(tmp_path):
    script = f"""{CLOCK}
import os
write = os.write
def short(file, text):
    return write(file, text[: len(text) // 2] if b"tracked_stats" in text else text)
meter.os.write = short
seen = 0
for batch in meter.steps(loader(20)):
    spend(10)
    seen += 1
print(seen)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    assert (outcome.codes, outcome.out) == ([0], ["20\n"])
    *whole, half = (outcome.folder / "train.log").read_text().split("\n")
    assert all(line.endswith("}") for line in whole)
    assert '"tracked_stats"' not in "".join(whole)
    assert not half.endswith("}")
    assert "the disk is full" in outcome.err[0]


def test_a_switch_that_fails_leaves_no_other_all_reduce_off_and_no_rank_waiting(tmp_path):
    script = """
    on = {}
    def sync(value):
        on["first"] = value
        if not value:
            1 / 0
    meter.METER.switches += [sync, lambda value: on.update(second=value)]
    closed = []
    def leave(self):
        closed.append(on.copy())
        raise OSError("cannot be put back")
    meter._Control.restore = leave
    for batch in meter.steps([[0] * 8] * 300):
        pass
    print(on)
    """
    outcome = train(tmp_path, script, ranks=2, measure=BENCHMARK)
    assert (outcome.codes, outcome.out) == ([0, 0], ["{'first': True, 'second': True}\n"] * 2)
    assert "the meter is off: ZeroDivisionError" in outcome.err[0]
    assert "ZeroDivisionError" in outcome.note()["off"]


# --- several ranks -----------------------------------------------------------------------------------------------

# Each of its 60 steps waits for all ranks, unless it is in (c).
STEPS = f"""
import os
meter._JOIN_S = 6.0
{RING}
meter.agree = lambda means, tolerance: True
seen = 0
for batch in meter.steps([[0] * 4] * 60, samples=4, sync=ring.sync):
    seen += 1
    time.sleep(0.002)
    ring.reduce()
print(seen)
"""


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_where_one_ranks_meter_is_off_the_others_leave_it_alone_in_no_all_reduce(tmp_path, rank):
    """Neither in a block (c) nor at the end of the benchmark."""
    broken = f"if os.environ['RANK'] == '{rank}':\n    meter.METER.told = meter.Told(lambda batch: 1 / 0)\n"
    script = STEPS.replace("seen = 0", f"{broken}seen = 0").replace("samples=4, ", "")
    outcome = train(tmp_path, script, ranks=3, measure=BENCHMARK)
    assert (outcome.codes, outcome.out) == ([0, 0, 0], ["60\n"] * 3), outcome.err
    assert all("the meter is off" in err for err in outcome.err)


def test_ranks_whose_loaders_prepare_different_numbers_of_batches_meet_at_the_same_steps(tmp_path):
    script = STEPS.replace("[[0] * 4] * 60", "Loader([[0] * 4] * 300)").replace(
        "seen = 0", "class Loader(list):\n    num_workers = 6 * (rank == 1)\n\nseen = 0"
    )
    outcome = train(tmp_path, script.replace("_JOIN_S = 6.0", "_MEET_S = 20.0"), ranks=2, measure=BENCHMARK)
    assert (outcome.codes, outcome.err) == ([0, 0], ["", ""])
    # Its buffers of 12 batches have been emptied twice.
    assert outcome.last("hpcjobs_warmup")["steps"] >= 24
    assert outcome.note(0)["steps"] == outcome.note(1)["steps"]


def test_a_step_in_which_one_rank_starts_its_loader_is_timed_on_none(tmp_path):
    """Rank 1 begins an epoch every third step, so that only two of three steps count. Rank 0 waits for it there."""
    script = f"""{RING}
import atexit, itertools, json
kept = meter.attribute
found = []
meter.attribute = lambda everyone: found.append(everyone) or kept(everyone)
atexit.register(lambda: print(json.dumps(found)))

def starting():
    time.sleep(0.2 * (rank == 1))
    yield from itertools.repeat([0] * 4, 3 if rank == 1 else 5000)

while True:
    for batch in meter.steps(starting(), samples=4, sync=ring.sync, drain=0):
        time.sleep(0.003)
        ring.reduce()
"""
    outcome = train(tmp_path, script, ranks=2, measure={**BENCHMARK, "control_steps": 6})
    assert outcome.codes == [0, 0], outcome.err
    ((one, two),) = json.loads(outcome.out[0])
    for each, other in zip(one["passes"], two["passes"], strict=True):
        assert len(each["a"]) == len(other["a"]) == 4
        assert max(each["a"]) < 100


def test_silent_strangers_do_not_keep_ranks_from_meeting(tmp_path):
    script = STEPS.replace("print(seen)", "raise SystemExit('the benchmark has not ended')").replace(
        "[[0] * 4] * 60", "[[0] * 4] * 300"
    )
    scan = """
import json, socket
strangers = []
listen = meter._Exchange._listen
def listened(self):
    listen(self)
    port = json.load(open(self.path))["port"]
    for said in [b""] * 20 + [b"[" * 4000 + b"\\n", b"x" * 5000]:
        strangers.append(socket.create_connection(("127.0.0.1", port)))
        strangers[-1].sendall(said)
meter._Exchange._listen = listened
"""
    outcome = train(tmp_path, scan + script.replace("_JOIN_S = 6.0", "_JOIN_S = 60.0"), ranks=2, measure=BENCHMARK)
    assert (outcome.codes, outcome.err) == ([0, 0], ["", ""])
    assert outcome.last("hpcjobs_control")["passes"] == 2
