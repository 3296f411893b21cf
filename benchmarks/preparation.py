"""Compares data preparation with its floor: only decoding and resizing, with the same library.

    .venv/bin/python benchmarks/preparation.py [--nih DIR] [--rounds N] [--workers N]

It prints three tables. One core: the worker's loop against a bare loop of `decode`, in turns, pinned to the
same core. N workers: `hpcjobs data prepare --workers N` against N processes of that bare loop, from the
moment when all N work until a tenth of the images is left. Only the seconds of the whole command include
the start of the processes (importing Python and TensorFlow).
Memory: peak resident size of the process that prepares 210 to 20,000 synthetic images.
DIR is laid out like the sample: images/, Data_Entry_2017_v2020.csv.gz and the two lists. The exit
code is 1 if a ratio is below the required one (0.85 on one core, 0.9 for N workers), or if memory
grows by more than a tenth from 210 to 20,000 images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from hpcjobs.chexnet.data.build import make
from hpcjobs.chexnet.data.decode import decode
from hpcjobs.chexnet.data.prepare import nih_recipe
from hpcjobs.chexnet.data.recipe import Recipe
from hpcjobs.chexnet.data.spread import Local
from hpcjobs.chexnet.data.workshop import Workshop, work

ROOT = Path(__file__).parent.parent
SIZE = 256
ONE_CORE, MANY_WORKERS, GROWTH = 0.85, 0.9, 1.1


def many(folder: Path, scratch: Path, images: int) -> Recipe:
    """A recipe for `images` names of the table, each a link to one of the existing images."""
    from hpcjobs.chexnet.data.nih import read_list

    there = sorted((folder / "images").glob("*.png"))
    links = scratch / "images"
    links.mkdir()
    for index, name in enumerate(list(read_list(folder / "train_val_list.txt.gz").names)[:images]):
        (links / name).symlink_to(there[index % len(there)].resolve())
    lists = (folder / "train_val_list.txt.gz", folder / "test_list.txt.gz")
    return nih_recipe([links], folder / "Data_Entry_2017_v2020.csv.gz", *lists, SIZE)


def bare(paths: list[Path]) -> float:
    """Images a second of decoding and resizing alone."""
    began = time.perf_counter()
    for path in paths:
        decode(path, SIZE)
    return len(paths) / (time.perf_counter() - began)


def prepared(recipe: Recipe, scratch: Path) -> float:
    """Images a second of a worker, in this process."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        shop = Workshop(Path(folder))
        shop.root.mkdir()
        run = shop.begin(recipe)
        began = time.perf_counter()
        work(shop.out, run, 0, None)
        seconds = time.perf_counter() - began
        assert all(shop.part(shard) for _, shard, _ in recipe.shards()), shop.problems(run)
        return recipe.images / seconds


def one_core(recipe: Recipe, scratch: Path, rounds: int) -> bool:
    """Print the table; returns whether the median ratio is high enough."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    paths = [recipe.read.paths[name] for names in recipe.plan.values() for name in names]
    prepared(recipe, scratch)  # TensorFlow writes its first file slowly.
    pairs = [(bare(paths), prepared(recipe, scratch)) for _ in range(rounds)]
    print(f"\none core (pinned), {len(paths)} X-rays, {rounds} rounds in turns\n  bare   prepare  ratio")
    for floor, ours in pairs:
        print(f"{floor:6.1f}  {ours:7.1f}  {ours / floor:5.3f}")
    return reached([ours / floor for floor, ours in pairs], ONE_CORE)


def reached(ratios: list[float], wanted: float) -> bool:
    median = statistics.median(ratios)
    print(f"median ratio {median:.3f}, required {wanted}")
    return median >= wanted


def many_workers(recipe: Recipe, scratch: Path, rounds: int, workers: int) -> bool:
    paths = [recipe.read.paths[name] for names in recipe.plan.values() for name in names]
    (scratch / "paths").write_text("\n".join(map(str, paths)))
    print(f"\n{workers} workers against {workers} independent processes, {len(paths)} X-rays")
    print("  bare   prepare  ratio  whole command")
    ratios = []
    for _ in range(rounds):
        processes = [
            subprocess.Popen([sys.executable, __file__, "--bare", scratch / "paths", f"{index}/{workers}"], stdout=-1)
            for index in range(workers)
        ]
        floor = sum(float(process.communicate()[0]) for process in processes)
        ours, whole = spread(recipe, scratch, workers)
        ratios.append(ours / floor)
        print(f"{floor:6.1f}  {ours:7.1f}  {ours / floor:5.3f}  {whole:13.1f}")
    return reached(ratios, MANY_WORKERS)


def spread(recipe: Recipe, scratch: Path, workers: int) -> tuple[float, float]:
    """(images a second of `workers` processes while all of them work, seconds of the whole command)."""
    looks: list[tuple[float, int]] = []

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder) / "out"

        def look(done: int, total: int) -> None:
            working = len(list(out.glob(".prepare/runs/*/done/*")))
            if working == workers and done <= 0.9 * total:
                looks.append((time.perf_counter(), done))

        began = time.perf_counter()
        make(recipe, out, Local(workers), look)
        whole = time.perf_counter() - began
    (start, before), (end, after) = looks[0], looks[-1]
    return (after - before) / (end - start), whole


def bare_share(list_of_paths: Path, share: str) -> None:
    """One process of the floor: prints its images a second."""
    index, count = map(int, share.split("/"))
    paths = list(map(Path, list_of_paths.read_text().split("\n")))[index::count]
    decode(paths[0], SIZE)
    print(bare(paths))


def memory(scratch: Path) -> bool:
    print(
        "\nmemory: peak resident MiB, synthetic images of 64 x 64\nimages  in this process  driver of 2  a worker of 2"
    )
    program = (
        "import resource, sys; from pathlib import Path; from hpcjobs.chexnet.data.build import make; "
        "from hpcjobs.chexnet.data.spread import Local; from hpcjobs.chexnet.data.synth import synth_recipe; "
        "make(synth_recipe(int(sys.argv[1]), 64), Path(sys.argv[2]), Local(int(sys.argv[3]))); "
        "print(*(resource.getrusage(who).ru_maxrss // 1024 "
        "for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    rows = []
    for images in (210, 2_000, 20_000):
        cells: list[str] = []
        for workers in (1, 2):
            out = scratch / f"memory-{images}-{workers}"
            words = [sys.executable, "-c", program, str(images), str(out), str(workers)]
            own, children = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
            cells += [own] if workers == 1 else [own, children]
        print(f"{images:6d}  {cells[0]:>15}  {cells[1]:>11}  {cells[2]:>13}")
        rows.append(list(map(int, cells)))
    return all(last <= GROWTH * first for first, last in zip(rows[0], rows[-1], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = ROOT.parent / "shared" / "data" / "nih"
    default = sample if sample.is_dir() else ROOT / "tests" / "data" / "nih"
    parser.add_argument("--nih", type=Path, default=default)
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_share(Path(options.bare[0]), options.bare[1])
        return 0
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        recipe = many(options.nih, scratch, options.images)
        few = replace(recipe, plan={"train": recipe.plan["train"][:256], "val": [], "test": []})
        good = [one_core(few, scratch, options.rounds)]
        os.sched_setaffinity(0, cores)
        good += [many_workers(recipe, scratch, options.rounds, options.workers), memory(scratch)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    raise SystemExit(main())
