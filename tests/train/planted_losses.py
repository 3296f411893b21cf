"""`RUN_YAML --attempt DIR`: the trainer, with losses planted; says whether the control phases left the model alone.

Rank 1 sleeps 80 ms in each step, and the input of each step takes 150 ms more on all ranks.
"""

import hashlib
import json
import os
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from horovod.tensorflow import allgather_object

from hpcjobs.chexnet.train import bench, job
from hpcjobs.chexnet.train.step import Step, optimizer_state
from hpcjobs.nodes.launched import launched_rank

SKEW_S, INPUT_S = 0.08, 0.15
RANK = launched_rank()


def slower(action, seconds: float):
    def wrapped(*arguments):
        if RANK == 1:
            time.sleep(SKEW_S)
        time.sleep(seconds)
        action(*arguments)

    return wrapped


class Slow(Step):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.on, self.alone = slower(self.on, 0), slower(self.alone, 0)

    def __call__(self, batches):
        slower(super().__call__, INPUT_S)(batches)


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


job.Step, job.Benchmark = Slow, Watched

if __name__ == "__main__":
    from hpcjobs.chexnet.train.__main__ import main

    raise SystemExit(main())
