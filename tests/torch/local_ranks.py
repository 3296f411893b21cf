"""Starts the ranks of a script on this machine, as plain processes or by torchrun, with the meter in them by injection."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
VENV = ROOT / ".venv-torch"
SCRIPTS = Path(__file__).parent / "scripts"
INJECT = ROOT / "hpcjobs" / "inject"
# In seconds: a machine may be slow, and other work may run beside.
LIMIT_S = 480.0


class Ended:
    """What a run of a script left in its folder, which is the attempt's."""

    def __init__(self, folder: Path, codes: list[int], outputs: list[str]) -> None:
        self.folder, self.codes, self.outputs = folder, codes, outputs

    @property
    def text(self) -> str:
        """What all ranks printed."""
        return "\n".join(self.outputs)

    def lines(self, key: str) -> list[dict[str, Any]]:
        """The lines of train.log with that key."""
        log = self.folder / "train.log"
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line.partition(":::MLLOG ")[2]) for line in lines]
        return [line for line in found if line["key"] == key]

    def value(self, key: str) -> Any:
        """The value of the last line with that key."""
        lines = self.lines(key)
        assert lines, f"no {key} in train.log; the ranks printed:\n{self.text[-4000:]}"
        return lines[-1]["value"]

    def windows(self) -> list[dict[str, Any]]:
        """The timed windows: value and metadata in one."""
        return [
            {**one["value"], **one["metadata"]} for one in self.lines("tracked_stats") if not one["metadata"]["warmup"]
        ]

    def note(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"meter-r{rank:03d}.json").read_text())
        return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(folder: Path, measure: dict[str, Any] | None, **more: str) -> dict[str, str]:
    """What a job script sets. `measure` None: nothing is injected."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HPCJOBS_", "SLURM_", "OMPI_"))}
    kept.pop("PYTHONPATH", None)
    kept |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if measure is not None:
        attempt = str(folder)
        kept |= {"HPCJOBS_METRICS": attempt, "HPCJOBS_ATTEMPT_DIR": attempt, "HPCJOBS_RUN_DIR": attempt}
        kept |= {"HPCJOBS_NODES": "1", "HPCJOBS_MEASURE": json.dumps(measure), "PYTHONPATH": str(INJECT)}
    return {**kept, **more}


def run(
    folder: Path,
    script: str,
    *words: str,
    ranks: int = 2,
    measure: dict[str, Any] | None,
    torchrun: bool = False,
    module: bool = False,
    **more: str,
) -> Ended:
    """Run a script of scripts/ on so many ranks, from that folder. `module`: as `python -m`."""
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(folder, measure, **more)
    python = str(VENV / "bin" / "python")
    what = ["-m", script.removesuffix(".py")] if module else [str(SCRIPTS / script)]
    if module:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), str(SCRIPTS))))
    command = [python, *what, *words]
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "HPCJOBS_GPUS": str(ranks)}
    if torchrun:
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
        starts = [([python, *launch, *what, *words], env)]
    else:
        size = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        starts = [(command, {**env, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)]
    outputs = [folder / f"output-{number}" for number in range(len(starts))]
    processes = []
    for (line, variables), output in zip(starts, outputs, strict=True):
        with output.open("w") as file:
            processes.append(subprocess.Popen(line, cwd=folder, env=variables, stdout=file, stderr=subprocess.STDOUT))
    until = time.monotonic() + LIMIT_S
    try:
        codes = [process.wait(max(until - time.monotonic(), 0.1)) for process in processes]
    except subprocess.TimeoutExpired:
        shown = "\n".join(output.read_text()[-3000:] for output in outputs)
        raise AssertionError(f"{script} did not end within {LIMIT_S:.0f} s; its ranks printed:\n{shown}") from None
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Ended(folder, codes, [output.read_text() for output in outputs])


if __name__ == "__main__":  # for a look by hand: local_ranks.py FOLDER SCRIPT WORDS...; MEASURE, RANKS
    ended = run(
        Path(sys.argv[1]),
        *sys.argv[2:],
        ranks=int(os.environ.get("RANKS", "2")),
        measure=json.loads(os.environ.get("MEASURE", "{}")),
        torchrun=bool(os.environ.get("TORCHRUN")),
    )
    print(ended.codes, *(output[-1500:] for output in ended.outputs), sep="\n")
