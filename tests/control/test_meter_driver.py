"""What a driver tells METER (hpcjobs.meter's docstring), with a clock that only the test moves."""

from __future__ import annotations

import json

import pytest

from tests.meter_scripts import CLOCK, train

# `fetch(ms)` and `step(ms)` are what a framework's loader and optimizer do under a driver that is injected.
DRIVER = f"""{CLOCK}
import json
M = meter.METER
assert M.drives("auto")

def fetch(ms=1, source="train", size=8, ends=False):
    def take():
        spend(ms)
        if ends:
            raise StopIteration
        return [0] * size
    try:
        return M.fetch(take, source)
    except StopIteration:
        return None

def step(ms=9, optimizer=None):
    spend(ms)
    M.step_ended(optimizer)
"""


def test_accumulation_counts_one_step_for_all_its_batches(tmp_path):
    script = f"""{DRIVER}
for _ in range(7):
    for micro in range(4):
        fetch(1)
        spend(4)
    step(20)
fetch()
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    (window,) = outcome.named("tracked_stats")
    assert window.value["step_ms"] == pytest.approx(40)
    assert window.value["input_wait_ms"] == pytest.approx(4)
    assert window.value["throughput"] == pytest.approx(32 / 0.040)
    run = outcome.last("hpcjobs_run")
    assert (run["accumulation"], run["local_batch"], run["meter"]) == (4, 32, "auto")


def test_several_optimizers_count_one_step(tmp_path):
    script = f"""{DRIVER}
generator, critic = object(), object()
for _ in range(7):
    fetch(2)
    step(10, critic)
    step(8, generator)
fetch()
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    assert outcome.note()["steps"] == 7
    assert outcome.named("tracked_stats")[0].value["step_ms"] == pytest.approx(20)
    assert outcome.last("hpcjobs_run")["optimizers"] == 2


@pytest.mark.parametrize("ends", [True, False], ids=["to its end", "broken off"])
def test_batches_that_lead_to_no_optimizer_step_are_an_evaluation(tmp_path, ends):
    script = f"""{DRIVER}
for epoch in range(3):
    for _ in range(5):
        fetch()
        step()
    for _ in range(4):
        fetch(100, source="eval")
    if {ends}:
        fetch(100, source="eval", ends=True)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 2})
    assert outcome.note()["steps"] == 15
    assert {round(e.value["step_ms"], 6) for e in outcome.named("tracked_stats")} == {10}
    assert outcome.note()["units_of_steps"] == {"8": 14}


def test_an_evaluation_within_the_control_blocks_comes_to_its_end(tmp_path):
    script = f"""{DRIVER}
steps = 0
while True:
    M.loop_began()
    for _ in range(9):
        fetch()
        step()
    M.loop_began()
    count = 0
    while fetch(5, source="eval", ends=count == 4):
        count += 1
    assert count == 4
"""
    measure = {"mode": "benchmark", "warmup": 2, "max_steps": 20, "control_passes": 4, "control_steps": 4}
    outcome = train(tmp_path, script, measure=measure)
    assert outcome.codes == [0], outcome.err
    assert outcome.last("hpcjobs_control")["passes"] == 4
    # A loop without a step is no epoch.
    assert outcome.named("epoch_start")[-1].metadata["epoch_num"] == -(-outcome.note()["steps"] // 9)


def test_two_loaders_of_one_step_are_no_evaluation(tmp_path):
    script = f"""{DRIVER}
for _ in range(7):
    fetch(1, source="labelled")
    fetch(1, source="unlabelled", size=24)
    step(8)
fetch(1, source="labelled")
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    assert outcome.named("tracked_stats")[0].value["step_ms"] == pytest.approx(10)
    run = outcome.last("hpcjobs_run")
    assert (run["local_batch"], run["accumulation"]) == (32, 1)


def test_a_checkpoint_before_which_a_driver_pauses_is_part_of_no_window(tmp_path):
    script = f"""{DRIVER}
for number in range(9):
    fetch()
    step()
    if number == 4:
        M.pause()
        spend(3000)
fetch()
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    assert [(e.metadata["step"], round(e.value["step_ms"], 6)) for e in outcome.named("tracked_stats")] == [
        (5, 10),
        (9, 10),
    ]


def test_in_b_and_c_a_loop_may_spoil_its_batch(tmp_path):
    script = f"""{DRIVER}
class Array:
    shape = (4, 2)
    def __init__(self):
        self.spoilt = False
    def copy(self):
        return Array()

seen = []
def take():
    seen.append(M.phase)
    return {{"x": Array()}}

while True:
    batch = M.fetch(take, "train", 3)
    assert not batch["x"].spoilt
    batch.pop("x").spoilt = True
    step(10)
    json.dump(seen, open(sys.argv[0] + ".seen", "w"))
"""
    measure = {"mode": "benchmark", "warmup": 2, "max_steps": 20, "control_passes": 2, "control_steps": 2}
    outcome = train(tmp_path, script, measure=measure)
    assert outcome.codes == [0], outcome.err
    seen = "".join(phase for phase in json.loads((tmp_path / "train.py.seen").read_text()) if phase in "abc")
    # (a) empties the three batches that the loader has ready, then takes four; (b) takes one and keeps it.
    assert seen == "a" * 7 + "b" + "a" * 7
    assert outcome.last("hpcjobs_control")["restored"] is False


def test_a_loop_that_says_its_steps_itself_goes_before_what_is_injected(tmp_path):
    script = f"""{DRIVER}
fetch()
for batch in meter.steps(loader(7, ms=1)):
    assert not M.drives("auto") and not M.drives("callback")
    spend(9)
assert not M.drives("auto")
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    assert outcome.codes == [0], outcome.err
    assert outcome.note()["steps"] == 7
    assert outcome.last("hpcjobs_run")["meter"] == "loop"


def test_import_meter_is_the_meter_that_was_injected(tmp_path):
    script = """
    import importlib.util
    spec = importlib.util.spec_from_file_location("_hpcjobs_meter", meter.__file__)
    injected = importlib.util.module_from_spec(spec)
    sys.modules["_hpcjobs_meter"] = injected
    spec.loader.exec_module(injected)
    del sys.modules["meter"]
    import meter
    assert meter.METER is injected.METER
    """
    outcome = train(tmp_path, script)
    assert outcome.codes == [0], outcome.err


# Stand-ins for frameworks, with the calls that theirs make. Fakes: the real ones are in make test-torch.
FAKES = f"""{CLOCK}
import types

class Callback:
    pass

keras = sys.modules["keras"] = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=Callback))
sys.modules["transformers"] = types.SimpleNamespace(TrainerCallback=Callback)
args = types.SimpleNamespace(per_device_train_batch_size=8, gradient_accumulation_steps=2, n_gpu=0)
"""


def test_a_keras_callback_tells_steps_losses_and_evaluations(tmp_path):
    script = f"""{FAKES}
callback = meter.keras_callback(samples=16)
assert isinstance(callback, Callback)
for epoch in range(2):
    callback.on_epoch_begin(epoch)
    for batch in range(5):
        callback.on_train_batch_begin(batch)
        spend(10)
        callback.on_train_batch_end(batch, {{"loss": 0.25}})
    callback.on_test_begin()
    spend(999)
    callback.on_test_end()
    callback.on_epoch_end(epoch)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    found = [
        (e.metadata["step"], round(e.value["step_ms"], 6), e.value["loss"]) for e in outcome.named("tracked_stats")
    ]
    assert found == [(5, 10, 0.25), (10, 10, 0.25)]
    assert outcome.named("tracked_stats")[0].value["throughput"] == pytest.approx(1600)
    assert outcome.named("tracked_stats")[0].value["input_wait_ms"] is None
    assert (len(outcome.named("eval_start")), len(outcome.named("eval_stop"))) == (2, 2)
    assert outcome.last("hpcjobs_run")["meter"] == "callback"


def test_a_hugging_face_callback_knows_the_batch_from_the_arguments(tmp_path):
    script = f"""{FAKES}
callback = meter.huggingface_callback()
callback.on_epoch_begin(args, None, None)
for step in range(7):
    callback.on_step_begin(args, None, None, model=None)
    spend(10)
    callback.on_step_end(args, None, None)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    assert outcome.last("hpcjobs_run")["local_batch"] == 16
    assert outcome.named("tracked_stats")[0].value["throughput"] == pytest.approx(1600)


def test_a_benchmark_by_a_callback_ends_without_control_blocks(tmp_path):
    script = f"""{FAKES}
callback = meter.keras_callback(samples=16)
for batch in range(10000):
    callback.on_train_batch_begin(batch)
    spend(10)
    callback.on_train_batch_end(batch)
"""
    outcome = train(tmp_path, script, measure={"mode": "benchmark", "warmup": 3, "max_steps": 100})
    assert outcome.codes == [0], outcome.err
    assert outcome.last("hpcjobs_precision")["reached"] is True
    assert not outcome.named("hpcjobs_control")
    assert outcome.note()["steps"] < 200
