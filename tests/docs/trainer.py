"""A fake trainer, for pages that are not about training."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.control.logs import train_log
from tests.docs.stage import Stage

SIZES = (1, 2, 4, 8, 16)

# Rank 0 leaves the log of a training of its size that went well, in `study-before` of one that was slower. What is no
# training is done by the real Python.
_TRAINER = """#!/bin/bash
if [ "$2" != hpcjobs.chexnet.train ]; then exec {python} "$@"; fi
if [ "${{SLURM_PROCID:-${{OMPI_COMM_WORLD_RANK:-0}}}}" != 0 ]; then exit 0; fi
case "$3" in */study-before/*) when=before ;; *) when=now ;; esac
cp "{logs}/$when-$(sed -n 's/^gpus: //p' "$3")-$(sed -n 's/^repeat: //p' "$3").log" "$5/train.log"
"""


def fake_trainer(stage: Stage) -> Path:
    """What a profile's `python` may name: 100 ms a step, and beyond one GPU 10 ms and 1 for each GPU more.

    Of three repeats each is 2 ms slower than the last; what was before took a fifth longer.
    """
    for when, slower in (("now", 1.0), ("before", 1.2)):
        for gpus in SIZES:
            for repeat in (1, 2, 3):
                step = slower * (100 + 2 * repeat + (10 + gpus if gpus > 1 else 0))
                stage.write(f"logs/{when}-{gpus}-{repeat}.log", train_log(gpus=gpus, step_ms=(step, step)))
    path = stage.folder / "trainer"
    path.write_text(_TRAINER.format(python=sys.executable, logs=stage.folder / "logs"))
    path.chmod(0o755)
    return path
