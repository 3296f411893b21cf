"""`RUN_YAML --attempt DIR`: the trainer, with losses planted; says whether the control phases left the model alone.

On a clock that only the steps move, and that the all-reduce sets to the slowest rank's, a step computes for 20 ms, on
rank 1 for 80 ms more, and its input takes 150 ms on all ranks. How busy the machine is makes no difference.
"""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.tensorflow import allgather_object

from hpcjobs import meter
from hpcjobs.chexnet.train import bench, job, setup
from hpcjobs.chexnet.train.step import Step, optimizer_state
from hpcjobs.nodes.launched import launched_rank

COMPUTE_S, SKEW_S, INPUT_S = 0.02, 0.08, 0.15
RANK = launched_rank()
CLOCK = SimpleNamespace(now=0.0)
bench.time = SimpleNamespace(perf_counter=lambda: CLOCK.now)
# The machine is no part of this: what else runs on it disturbs no block.
meter.load_between = lambda before, after: {}


def timed(action, input_s: float, *, together: bool):
    """The action, which takes as long as is planted; `together`: with the all-reduce."""

    def wrapped(*arguments):
        action(*arguments)
        CLOCK.now += COMPUTE_S + input_s + (SKEW_S if RANK == 1 else 0.0)
        if together:
            now = tf.constant(CLOCK.now, tf.float64)
            CLOCK.now = float(hvd.allreduce(now, op=hvd.Max, name="clock").numpy())

    return wrapped


class Slow(Step):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.on, self.alone = timed(self.on, 0.0, together=True), timed(self.alone, 0.0, together=False)

    def __call__(self, batches):
        timed(super().__call__, INPUT_S, together=True)(batches)


class Watched(bench.Benchmark):
    def _control(self):
        before = self.digest()
        super()._control()
        same = allgather_object(self.digest() == before)
        if RANK == 0:
            Path(os.environ["TOLD"]).write_text(json.dumps({"restored": same}))

    def digest(self) -> str:
        variables = [*self.step.model.variables, *optimizer_state(self.step.optimizer).values()]
        return hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in variables)).hexdigest()


setup.Step, job.Benchmark = Slow, Watched

if __name__ == "__main__":
    from hpcjobs.chexnet.train.__main__ import main

    raise SystemExit(main())
