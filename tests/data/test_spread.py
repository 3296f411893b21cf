"""Many workers, killed or not, make the bytes that one makes undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base import lock
from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.chexnet.data import recipe as recipes
from hpcjobs.chexnet.data.build import make, rebuild
from hpcjobs.chexnet.data.recipe import Recipe
from hpcjobs.chexnet.data.spread import Array, Local, carry_out
from hpcjobs.chexnet.data.synth import synth_recipe
from hpcjobs.chexnet.data.workshop import Workshop, work
from hpcjobs.config import Cluster
from hpcjobs.config.cluster import Container
from tests.fixtures_data import contents, prepare_from, recipe_from

# 1,200 images of 32 x 32 in six shards: a second or two of work beside the start.
SYNTH = ("--images", "1200", "--size", "32", "--seed", "5")


# Longer than anything takes on a machine that is busy with other work: it ends a test that hangs.
HANGS_S = 600


def until(ready: Callable[[], object], job: subprocess.Popen[str] | None = None, pause: float = 0.1) -> None:
    """Wait for something that must come, and while `job` runs."""
    deadline = time.monotonic() + HANGS_S
    while not ready():
        assert time.monotonic() < deadline, "it hangs"
        assert job is None or job.poll() is None, "the job has ended"
        time.sleep(pause)


def small_shards(recipe: Recipe) -> Recipe:
    return replace(recipe, images_per_shard=16)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    make(synth_recipe(1200, 32, 5), out)
    return contents(out)


def synth(out: Path, *more: str) -> subprocess.Popen[str]:
    """`hpcjobs data synth` in a process group of its own, as a shell starts it."""
    words = [sys.executable, "-m", "hpcjobs", "data", "synth", *SYNTH, "--out", str(out), *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers_of(out: Path) -> list[int]:
    """Processes that work on `out`, beside this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(out / ".prepare").encode() in words and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def until_begun(out: Path, job: subprocess.Popen[str]) -> None:
    """Wait until the job works on `out`, or has ended."""
    until(lambda: (out / ".prepare" / "run").exists() or job.poll() is not None, pause=0.01)


def test_real_xrays_from_one_and_from_four_workers_are_the_same_bytes(nih: Path, tmp_path: Path) -> None:
    recipe = small_shards(recipe_from(nih))
    make(recipe, tmp_path / "one", Local(1))
    make(recipe, tmp_path / "four", Local(4))
    assert contents(tmp_path / "one") == contents(tmp_path / "four")
    assert len(contents(tmp_path / "one")) > 3


def test_kill_9_at_any_moment_and_again_gives_the_same_bytes(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    dice = random.Random(4)
    for turn, workers in enumerate(("1", "2", "1")):
        out = tmp_path / f"out{turn}"
        kills = 0
        for _ in range(2):
            job = synth(out, "--workers", workers)
            until_begun(out, job)
            time.sleep(dice.uniform(0, 6 if workers == "2" else 1.5))
            kills += job.poll() is None
            job.kill()
            job.communicate()
        assert kills
        job = synth(out, "--workers", workers)
        assert job.wait(timeout=HANGS_S) == 0, job.communicate()[1]
        assert contents(out) == undisturbed
        assert not workers_of(out)


def test_the_workers_of_a_killed_driver_leave(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = synth(out, "--workers", "2", "--size", "512")
    until(lambda: any((out / ".prepare").glob("tmp/*")), job)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    until(lambda: not workers_of(out))


@pytest.mark.parametrize("moment", ["run", "logs/*", "tmp/*"])
def test_a_ctrl_c_that_a_terminal_sends_to_all_processes_shows_no_traceback(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    job = synth(out, "--workers", "2", "--size", "512")
    until(lambda: any((out / ".prepare").glob(moment)), job, pause=0.01)
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=HANGS_S)  # until the last process that can write to it has ended
    assert job.returncode == 130
    assert said.splitlines()[-1] == "hpcjobs: interrupted"
    assert "Traceback" not in said
    until(lambda: not workers_of(out))


def test_the_workers_of_an_interrupted_driver_end_though_it_lives_on(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(small_shards(synth_recipe(20_000, 512)), tmp_path, Local(2), progress=interrupt)
    until(lambda: not workers_of(tmp_path))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 600:
            raise KeyboardInterrupt

    recipe = synth_recipe(1200, 128, 5)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, tmp_path / "out", progress=interrupt)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert before
    said: list[str] = []
    make(recipe, tmp_path / "out", say=said.append)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert before.items() < after.items()
    assert "images are there from an interrupted run" in said[0]


def test_what_a_run_left_that_was_killed_at_its_very_end_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    recipe, out = synth_recipe(60, 32), tmp_path / "out"
    (shard, *_) = (shard for _, shard, _ in recipe.shards())
    for act in (lambda: make(recipe, out), lambda: rebuild(recipe, out, [shard])):
        with monkeypatch.context() as patch:
            patch.setattr("hpcjobs.chexnet.data.build.shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                act()
        assert (out / "dataset.json").exists()
        gone = {"host": socket.gethostname(), "pid": 1, "started": -1}  # as kill -9 leaves the lock
        (out / ".prepare" / "lock").write_text(json.dumps(gone))
        said: list[str] = []
        make(recipe, out, say=said.append)
        assert "already made from the same inputs" in said[0]
        assert not (out / ".prepare").exists()


def test_a_finished_data_set_that_somebody_mends_is_left_to_him(tmp_path: Path) -> None:
    recipe, out = synth_recipe(60, 32), tmp_path / "out"
    made = make(recipe, out)
    (out / ".prepare").mkdir()
    with lock.held(out / ".prepare" / "lock", "x"):
        assert make(recipe, out) == made
        assert (out / ".prepare" / "lock").exists()


def test_a_worker_that_slurm_starts_again_takes_its_shard_again(tmp_path: Path) -> None:
    recipe, shop = small_shards(synth_recipe(60, 32)), Workshop(tmp_path)
    shop.root.mkdir()
    run = shop.begin(recipe)
    first, second, *_ = (shard for _, shard, _ in recipe.shards())
    claims = shop.root / "runs" / run / "claims"
    (claims / first).write_text("0")  # as worker 0 left it when its node died
    (claims / second).write_text("1")
    work(tmp_path, run, 0, None)
    assert shop.part(first)
    assert shop.part(second) is None
    work(tmp_path, run, 1, None)
    assert shop.part(second)
    assert shop.problems(run) == []


def test_a_worker_leaves_when_a_newer_run_has_begun_or_its_driver_is_gone(tmp_path: Path) -> None:
    recipe, shop = synth_recipe(60, 32), Workshop(tmp_path)
    shop.root.mkdir()
    old = shop.begin(recipe)
    new = shop.begin(recipe)
    (shop.root / "runs" / old / "done").mkdir(parents=True)
    work(tmp_path, old, 0, None)
    work(tmp_path, new, 0, {**lock.process(), "started": 1})
    assert not list(tmp_path.glob("*.tfrecord"))


def test_a_worker_of_an_older_run_puts_nothing_in_place(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.root.mkdir()
    recipe = synth_recipe(60, 32)
    old = shop.begin(recipe)

    def look(images: int) -> None:
        (shop.root / "run").write_text("a newer one")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpcjobs.chexnet.data.workshop._REPORT_S", -1.0)
        work(tmp_path, old, 0, None, look)
    assert not list(tmp_path.glob("*.tfrecord"))
    assert not list(shop.root.glob("parts/*"))
    assert not list(shop.root.glob("tmp/*"))


def test_other_options_on_an_unfinished_folder_are_refused(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(synth_recipe(60, 32), tmp_path / "out", progress=interrupt)
    with pytest.raises(InputError, match=r"made with seed 1, this asks for 2: give --out a new folder"):
        make(synth_recipe(60, 32, seed=2), tmp_path / "out")


def test_other_software_starts_afresh_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    recipe = synth_recipe(60, 32)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, tmp_path / "out", progress=interrupt)
    now = recipes.software()
    monkeypatch.setattr("hpcjobs.chexnet.data.build.software", lambda: {**now, "numpy": "99"})
    said: list[str] = []
    make(recipe, tmp_path / "out", say=said.append)
    assert f"other software (numpy {now['numpy']} then, 99 now): starting over" in said[0]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / ".prepare").mkdir(parents=True)
    with lock.held(tmp_path / "out" / ".prepare" / "lock", "x"), pytest.raises(lock.Locked, match="is working on it"):
        make(synth_recipe(60, 32), tmp_path / "out")


def test_a_worker_that_dies_is_told_with_what_is_missing(tmp_path: Path) -> None:
    recipe = small_shards(synth_recipe(60, 32))
    recipe = replace(recipe, read=_DeadlyFor(recipe.read, recipe.plan["val"][0]))
    with pytest.raises(
        HpcjobsError, match=r"of 5 shards are not made .* a worker ended without a message: see"
    ) as caught:
        make(recipe, tmp_path / "out", Local(2))
    assert caught.value.exit_code == 1
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) >= 3  # The other worker went on.


class _DeadlyFor:
    """Reads images, and is killed at one of them, as by the out-of-memory killer."""

    def __init__(self, read: Any, name: str):
        self.read, self.name = read, name

    def __call__(self, name: str) -> Any:
        if name == self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.read(name)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    recipe = synth_recipe(60, 32)
    out = tmp_path / "out"
    (out / ".prepare" / "tmp").mkdir(parents=True)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); import signal; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import sys; "
        f"sys.argv = ['hpcjobs', 'data', 'synth', '--images', '60', '--size', '32', '--out', {str(out)!r}]; "
        "from hpcjobs.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line
    assert "The same command makes the rest" in line
    make(recipe, out)


@pytest.mark.parametrize(
    ("make_where", "message"),
    [
        (lambda: Local(0), "--workers 0: give 1 or more"),
        (
            lambda: Array(Cluster(name="here", scheduler="local", gpu_request="none"), 1),
            "its scheduler is local: use --workers",
        ),
        (lambda: Array(Cluster(name="there", gpu_request="none"), 0), "--jobs 0: give 1 or more"),
        (
            lambda: Array(
                Cluster(
                    name="boxed",
                    gpu_request="none",
                    container=Container(kind="apptainer", image="/i.sif"),
                    python="/usr/bin/python3",
                ),
                1,
            ),
            "--cluster boxed: data are not prepared in a container",
        ),
    ],
)
def test_wrong_numbers_of_workers(make_where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_where()


def test_a_few_shards_are_made_in_this_process(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.root.mkdir()
    run = shop.begin(synth_recipe(60, 32))
    looks: list[int] = []
    carry_out(shop, run, 3, Local(), looks.append)
    assert looks[-1] == 60
    assert not list((shop.root / "logs").iterdir())


def test_memory_stays_flat_from_200_to_1000_images(tmp_path: Path) -> None:
    """800 images of 16 KiB more, all kept, would be 12.5 MiB."""
    program = (
        "import resource, sys; from pathlib import Path; from dataclasses import replace; "
        "from hpcjobs.chexnet.data.build import make; from hpcjobs.chexnet.data.synth import synth_recipe\n"
        "for images in (200, 1000):\n"
        "    make(replace(synth_recipe(images, 128), images_per_shard=32), Path(sys.argv[1], str(images)))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many - few < 6 * 1024, "KiB"


def test_the_whole_table_splits_by_patient(nih: Path, tmp_path: Path) -> None:
    """All 112,120 rows of both releases, with links to one image for each name."""
    from hpcjobs.chexnet.data.nih import read_metadata

    table = read_metadata(nih / "Data_Entry_2017_v2020.csv.gz").entries
    one = next((nih / "images").iterdir())
    for name in table:
        folder = tmp_path / "images" / name[:5]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(one)
    for release in ("Data_Entry_2017_v2020.csv.gz", "Data_Entry_2017.csv.gz"):
        recipe = recipe_from(nih, images=[tmp_path / "images"], metadata=nih / release)
        patients = {split: {table[name].patient_id for name in names} for split, names in recipe.plan.items()}
        assert not patients["train"] & patients["val"]
        assert not (patients["train"] | patients["val"]) & patients["test"]
        assert sorted(name for names in recipe.plan.values() for name in names) == sorted(table)
        assert (recipe.missing, recipe.surplus) == ([], [])
        if len(table) < 112_120:
            pytest.skip("only the excerpt of the table is here: its patients are apart, there are no counts to check")
        assert (len(recipe.plan["test"]), len(patients["test"])) == (25_596, 2_797)
        assert len(recipe.plan["train"]) + len(recipe.plan["val"]) == 86_524
        assert len(patients["train"]) + len(patients["val"]) == 28_008
        assert len(patients["val"]) == 2_801


def test_archives_of_images_in_many_folders_count_once(nih_excerpt: Path, tmp_path: Path) -> None:
    import shutil

    for number, path in enumerate(sorted((nih_excerpt / "images").iterdir()), start=1):
        folder = tmp_path / f"images_{number:03d}" / "images"
        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / path.name)
    spread = prepare_from(nih_excerpt, tmp_path / "spread", images=sorted(tmp_path.glob("images_*")))
    together = prepare_from(nih_excerpt, tmp_path / "together")
    assert contents(spread.folder) == contents(together.folder)
    assert json.loads((spread.folder / "dataset.json").read_text())["patients_in_two_splits"] == 0
