"""How often the stated 95 % interval of a part of a step holds the truth that a simulated machine was planted with.

    .venv/bin/python benchmarks/parts.py [--runs N] [--seed N]

Each run is a training of four ranks on two nodes, whose control blocks end as a benchmark's do (meter.parts_known,
at most 16 passes), beside a smaller one that it is compared with. The table has, for each kind of machine, the
percentage of runs whose interval holds the truth: for the parts of the step, and for the losses between the two.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcjobs import meter

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


def runs(machine: Machine, count: int, seed: int, precision: float) -> Iterator[dict[str, tuple[bool, float]]]:
    """For each run and part: whether the interval holds the truth, and its half-width in ms."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        everyone, level = blocks(machine, random)
        done, passes = ended(everyone, precision)
        value = meter.attribute(done)
        truth = {**TRUTH, "compute_ms": level[:passes].mean() + LATE / RANKS}
        found = {
            name: (abs(value[name] - truth[name]) <= value["half_widths"][name], value["half_widths"][name])
            for name in meter.PARTS
        }
        yield {**found, "passes": (True, passes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--precision", type=float, default=0.02)
    options = parser.parse_args()
    print(f"{'machine':26} {'input':>6} {'all-red':>7} {'skew':>6} {'compute':>7}   half-widths in ms       passes")
    for name, machine in MACHINES.items():
        found = list(runs(machine, options.runs, options.seed, options.precision))
        held = [100 * np.mean([one[part][0] for one in found]) for part in meter.PARTS]
        wide = [np.median([one[part][1] for one in found]) for part in meter.PARTS]
        passes = np.mean([one["passes"][1] for one in found])
        print(
            f"{name:26} " + " ".join(f"{each:6.1f}" for each in held),
            "  " + " ".join(f"{each:5.2f}" for each in wide) + f"  {passes:5.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
