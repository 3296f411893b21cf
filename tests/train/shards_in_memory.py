"""The trainer, which prints at its end where its node holds shards in RAM; for test_cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hpcjobs.chexnet.train import job

train = job.train


def telling(setup, loop, held):
    train(setup, loop, held)
    # Listed at once: the listing itself takes a descriptor.
    mine = [path for path in list(Path("/proc/self/fd").iterdir()) if "memfd:" in os.path.realpath(path)]
    bytes_ = {name: Path(path).stat().st_size for name, path in held.items()}
    told = job.allgather_object({"held": bytes_, "mine": sum(path.stat().st_size for path in mine)})
    if not job.hvd.rank():
        print(json.dumps(told))


job.train = telling

if __name__ == "__main__":
    from hpcjobs.chexnet.train.__main__ import main

    raise SystemExit(main())
