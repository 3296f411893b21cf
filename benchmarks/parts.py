"""How often the stated 95 % interval of a part of a step holds the truth that a simulated machine was planted with.

    .venv/bin/python benchmarks/parts.py [--runs N] [--seed N]

Each run is a training of four ranks on two nodes, whose control blocks end as a benchmark's do (meter.parts_known,
at most 16 passes), beside a smaller one that it is compared with. The table has, for each kind of machine, the
percentage of runs whose interval holds the truth, and the median half-width in ms: for the parts of the step, and for
the losses between the two.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from hpcjobs import meter
from hpcjobs.analysis.scaling import table
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.collect import control_phases

RANKS, STEPS, UNTIMED, MOST = 4, 3, 1, 16
# Planted, in ms: a rank of four is 10 late.
COMPUTE, LATE, ALLREDUCE, INPUT = 100.0, 10.0, 7.0, 3.0
TRUTH = {"input_wait_ms": INPUT, "allreduce_ms": ALLREDUCE, "skew_ms": LATE * (RANKS - 1) / RANKS}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What disturbs the steps, in ms: the noise of each rank's step, of all ranks' steps together with the
    correlation of one step with the next, of whole blocks; a drift per block; and a neighbour that in a fraction of
    the blocks makes the steps of one rank longer, which the measured load tells if it is `seen`.
    """

    ranks: float = 1.0
    common: float = 0.0
    correlation: float = 0.0
    blocks: float = 0.5
    drift: float = 0.0
    neighbour: float = 0.0
    longer: float = 25.0
    seen: bool = False


MACHINES = {
    "independent noise": Machine(),
    "blocks differ by 2 %": Machine(blocks=2.0),
    "autocorrelated, 0.6": Machine(common=2.0, correlation=0.6),
    "autocorrelated, 0.9": Machine(common=2.0, correlation=0.9),
    "drift, 0.1 % a block": Machine(drift=0.1),
    "drift, 1 % a block": Machine(drift=1.0),
    "neighbour, 10 %, seen": Machine(neighbour=0.1, seen=True),
    "neighbour, 20 %, seen": Machine(neighbour=0.2, seen=True),
    "neighbour, 5 %, not seen": Machine(neighbour=0.05),
    "neighbour, 10 %, not seen": Machine(neighbour=0.1),
    "neighbour, 20 %, not seen": Machine(neighbour=0.2),
}


def blocks(machine: Machine, random: np.random.Generator, scale: float = 1.0) -> tuple[list[dict[str, Any]], float]:
    """What every rank measured in MOST passes, and the mean time in ms that a rank computes in (c) but for noise.

    `scale` multiplies the planted all-reduce, input wait and lateness.
    """
    each = STEPS + UNTIMED
    count = 3 * MOST * each
    times = COMPUTE + machine.ranks * random.normal(size=(count, RANKS))
    times[:, RANKS - 1] += scale * LATE
    shared = random.normal(size=count)
    innovation = np.sqrt(1 - machine.correlation**2)
    for step in range(1, count):
        shared[step] = machine.correlation * shared[step - 1] + innovation * shared[step]
    hit = random.random(3 * MOST) < machine.neighbour
    place = np.arange(3 * MOST) - 1.5 * MOST
    moved = machine.drift * place
    times += (machine.common * shared + np.repeat(machine.blocks * random.normal(size=3 * MOST) + moved, each))[:, None]
    times[:, 1] += np.repeat(hit * machine.longer, each)
    by_block = times.reshape(3 * MOST, each, RANKS)[:, UNTIMED:]
    everyone: list[dict[str, Any]] = [
        {"rank": rank, "host": f"n{rank // 2}", "passes": [], "collectives": [0] * MOST} for rank in range(RANKS)
    ]
    level = []
    for number in range(MOST):
        found: dict[str, tuple[np.ndarray, bool]] = {}
        for index, phase in enumerate("abc" if number % 2 == 0 else "cba"):
            block = by_block[3 * number + index]
            if phase == "c":
                level.append(COMPUTE + moved[3 * number + index])
            else:
                # All ranks end a step together, when the slowest has come and the all-reduce is done.
                whole = block.max(axis=1) + scale * (ALLREDUCE + (INPUT if phase == "a" else 0.0))
                block = np.repeat(whole[:, None], RANKS, axis=1)
            found[phase] = block, bool(hit[3 * number + index] and machine.seen)
        for rank, one in enumerate(everyone):
            one["passes"].append(
                {phase: list(map(float, block[:, rank])) for phase, (block, _) in found.items()}
                | {"load": {phase: {"foreign_cpu": 0.05 + noisy * (rank < 2)} for phase, (_, noisy) in found.items()}}
            )
    return everyone, np.asarray(level)


def ended(everyone: list[dict[str, Any]], precision: float) -> tuple[list[dict[str, Any]], int]:
    """The blocks up to the pass after which a benchmark ends them, and how many passes these are."""
    for passes in range(1, MOST + 1):
        done = [{**one, "passes": one["passes"][:passes]} for one in everyone]
        if passes == MOST or meter.parts_known(done, precision):
            break
    return done, passes


class Outcome(NamedTuple):
    """Of one simulated run: by part or loss, whether its interval holds the truth, and the half-width in ms."""

    held: dict[str, bool]
    half_widths: dict[str, float]
    passes: int


def outcomes(machine: Machine, count: int, seed: int, precision: float = 0.02) -> Iterator[Outcome]:
    """`count` runs, each beside the base that it is compared with, on which half of each part is planted."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        levels, ends, rows = [], [], []
        for gpus, scale in ((RANKS // 2, 0.5), (RANKS, 1.0)):
            everyone, level = blocks(machine, random, scale)
            done, passes = ended(everyone, precision)
            levels.append(level[:passes].mean())
            ends.append((meter.attribute(done), passes))
            rows.append(_run(gpus, ends[-1][0]))
        value, passes = ends[1]
        truth = {**TRUTH, "compute_ms": levels[1] + LATE / RANKS}
        held = {part: abs(value[part] - truth[part]) <= value["half_widths"][part] for part in meter.PARTS}
        wide = {part: value["half_widths"][part] for part in meter.PARTS}
        row = table(rows)[1]
        # A typical rank waits for the late one: half of 10 ms longer than at the base.
        lost = {"input": INPUT / 2, "allreduce": ALLREDUCE / 2, "skew": LATE / 2, "compute": levels[1] - levels[0]}
        for part, loss in lost.items():
            low, high = (getattr(row, f"lost_{part}_ms_{end}") for end in ("low", "high"))
            held[f"lost_{part}_ms"], wide[f"lost_{part}_ms"] = low <= loss <= high, (high - low) / 2
        yield Outcome(held, wide, passes)


def _run(gpus: int, value: dict[str, Any]) -> Run:
    """What runs.csv would say of it."""
    return Run(
        run=f"g{gpus}", attempt="a001", state=RunState.DONE, failure="", source="", experiment="simulated", params="",
        gpus=gpus, nodes=2, gpus_per_node=2, local_batch=8, global_batch=8 * gpus, unit="samples",
        throughput=8000 * gpus / value["step_ms"], step_ms=value["step_ms"], **control_phases.parts(value),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the intervals of a step's parts, simulated.")
    parser.add_argument("--runs", type=int, default=2000, help="runs of each machine (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument(
        "--precision", type=float, default=0.02, help="measure.parts_precision; 0: always 16 passes (default: 0.02)"
    )
    options = parser.parse_args()
    names = [*meter.PARTS, *(f"lost_{part}_ms" for part in ("input", "allreduce", "skew", "compute"))]
    heads = [name.removesuffix("_ms").replace("input_wait", "input").replace("allreduce", "reduce") for name in names]
    print(f"{'% that hold the truth':26}" + "".join(f"{head:>13}" for head in heads) + "  passes")
    for name, machine in MACHINES.items():
        found = list(outcomes(machine, options.runs, options.seed, options.precision))
        held = [100 * np.mean([one.held[part] for one in found]) for part in names]
        wide = [np.median([one.half_widths[part] for one in found]) for part in names]
        cells = "".join(f"{h:6.1f} +-{w:4.1f}" for h, w in zip(held, wide, strict=True))
        print(f"{name:26}{cells}  {np.mean([one.passes for one in found]):6.1f}", flush=True)


if __name__ == "__main__":
    main()
