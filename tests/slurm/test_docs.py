"""The pages that need a cluster: each command in them runs on a real Slurm."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from hpcjobs.config import Cluster, load, profiles, to_builtins
from tests.docs.pages import ROOT, code
from tests.docs.stage import Stage
from tests.docs.trainer import SIZES, fake_trainer
from tests.fixtures_browser import Browser
from tests.running import until

from .conftest import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

NODES = {1: 1, 2: 1, 4: 1, 8: 2, 16: 4}
SAMPLES = Path(__file__).parents[1] / "control" / "logs_formats" / "samples"
PROFILE = "~/.config/hpcjobs/clusters/mine.yaml"

# What a reader fills in where the detected profile says UNKNOWN. The GPUs are only names. Many ranks share few cores:
# a rank that waits must yield.
MEND = f"""\
sed -i 's/^device: gpu/device: cpu/' {PROFILE}
echo 'env: {{OMPI_MCA_mpi_yield_when_idle: "1", OMP_NUM_THREADS: "1"}}' >>{PROFILE}
"""

# In the working folder it shadows the experiment that ships with hpcjobs. The test machine has no file of Keras'
# weights, and would not train DenseNet-121 on sixteen ranks within minutes.
UNWEIGHTED = "name: chexnet\nmodel: {name: densenet121, weights: none}\nbatch: {local: 64}\nrepeats: 3\n"
TINY = """\
name: chexnet
model: {name: densenet_tiny, weights: none}
data: {repeat: true}
batch: {local: 1}
train: {epochs: 1, steps: 20}
repeats: 1
"""


@pytest.fixture
def stage(tmp_path: Path, cluster: Slurm) -> Stage:
    """A reader on a login node of the virtual cluster."""
    return Stage(tmp_path, cluster.env)


@pytest.fixture
def mine(stage: Stage, cluster: Slurm) -> Cluster:
    """The profile that the pages call `mine`, with a fake trainer, and with small jobs that share a node."""
    small: dict[str, Any] = {"sharing": "shared", "cpus_per_gpu": 1, "mem_per_gpu_mib": 800}
    small["mpi_plugin"] = cluster.mpi_plugin  # the fake trainer needs no MPI
    about = {**to_builtins(profiles.cluster("virtual")), "name": "mine", "python": str(fake_trainer(stage)), **small}
    path = stage.config / "clusters" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(about))
    return load(path, Cluster)


@pytest.fixture
def xrays(stage: Stage, nih_excerpt: Path) -> int:
    """A download of six X-rays, with NIH's file names. Returns their number."""
    paths = sorted((nih_excerpt / "images").iterdir())
    for number, path in enumerate(paths):
        folder = stage.folder / f"images_{number % 2 + 1:03d}"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    names = {path.name for path in paths}
    for name in ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"):
        lines = gzip.decompress((nih_excerpt / f"{name}.gz").read_bytes()).decode().splitlines()
        kept = [line for line in lines if line.partition(",")[0] in {*names, "Image Index"}]
        stage.write(name, "".join(f"{line}\n" for line in kept))
    return len(paths)


def table(sweep: Path) -> pandas.DataFrame:
    """The CSV of the report, once the sweep's last job has written it."""
    path = sweep / "report" / "scaling-report.csv"
    until(path.exists)
    return pandas.read_csv(path)


def images_in(shards: Path) -> int:
    return sum(split["images"] for split in json.loads((shards / "dataset.json").read_text())["splits"].values())


@pytest.mark.timeout(900)
def test_readme(stage: Stage, xrays: int) -> None:
    """From a checkout to a report. The training of one's own is real, the built-in trainer is fake."""
    stage.write("experiments/chexnet.yaml", UNWEIGHTED)
    shutil.copytree(ROOT / "examples", stage.folder / "examples")
    # The report that `make demo` leaves has the columns of any report.
    (stage.folder / "sweeps" / "demo").mkdir(parents=True)
    (stage.folder / "sweeps" / "demo" / "report").symlink_to(stage.folder / "study" / "report")
    fake = f"echo 'python: {fake_trainer(stage)}' >>{PROFILE}"
    between = {"hpcjobs check --gpus 1,2,4,8 --cluster mine -- python3": MEND, "data prepare": fake}
    stage.follow("README.md", between=between, timeout=850)
    place = stage.folder / "examples" / "plain_sockets"
    for name, sizes in (("own", (1, 2)), ("ours", (1, 2, 4, 8))):
        rows = table(place / name)
        assert list(rows.gpus) == list(sizes)
        assert set(rows.unit) == {"samples"}
        assert (rows.global_batch == 64 * rows.gpus).all()
        assert (rows.throughput > 0).all()
    assert list(rows.nodes) == [1, 1, 1, 2]
    assert images_in(stage.shards) == xrays
    rows = table(stage.folder / "study")
    assert list(rows.gpus) == list(SIZES)
    assert list(rows.runs) == [3] * 5
    assert (rows.throughput_low < rows.throughput).all()


def hosts_and_ranks(attempt: Path) -> tuple[list[str], int]:
    (line,) = [line for line in (attempt / "train.log").open() if '"hpcjobs_run"' in line]
    value = json.loads(line.removeprefix(":::MLLOG"))["value"]
    return value["hosts"], value["gpus"]


@pytest.mark.timeout(900)
def test_first_sweep(stage: Stage, cluster: Slurm, xrays: int, browser: Browser, pmix: None) -> None:
    """Real X-rays, five arrays on four nodes, real Horovod ranks. The ranks of the page's last block are fake.

    Without PMIx the ranks are mpirun's, which starts none as root.
    """
    stage.write("experiments/chexnet.yaml", TINY)
    fake = f"echo 'python: {fake_trainer(stage)}' >>{PROFILE}"
    outputs = stage.follow("docs/first-sweep.md", between={"data prepare": MEND, "mode=benchmark": fake}, timeout=850)
    listed, _, checked, dry, _, read, _ = outputs
    assert re.search(r"^mine +user +/", listed, re.MULTILINE)
    assert images_in(stage.shards) == xrays
    assert {line.split()[0] for line in checked.splitlines()} == {"ok"}
    assert dry.count("could start") == 1
    assert [len(re.findall(rf"^==> .*/g{gpus:04d}.sbatch", dry, re.MULTILINE)) for gpus in SIZES] == [1] * 5

    rows = table(stage.folder / "study")
    assert list(rows.gpus) == list(NODES)
    assert list(rows.nodes) == list(NODES.values())
    assert (rows.throughput > 0).all()
    assert list(rows.runs) == [1] * 5
    jobs = [job_id.partition("_")[0] for job_id in rows.job_ids]
    assert len(set(jobs)) == 5
    for job, gpus, nodelist in zip(jobs, rows.gpus, rows.nodelist, strict=True):
        (row,) = cluster.wait(job, "AllocNodes", "ReqTRES", "AllocTRES")
        assert row["State"] == "COMPLETED"
        assert int(row["AllocNodes"]) == NODES[gpus]
        assert f"gres/gpu={gpus}" in row["ReqTRES"].split(",")
        # The job has the whole node for itself.
        assert f"gres/gpu={4 * NODES[gpus]}" in row["AllocTRES"].split(",")
        # The CSV has the expanded list of the hosts that the ranks reported.
        assert len(nodelist.split()) == NODES[gpus]
        assert all(re.fullmatch(r"c4140-[1-4]", host) for host in nodelist.split())
    # The page has the same figures, and opens without an error.
    page = stage.folder / "study" / "report" / "report.html"
    browser.open(page)
    assert browser.rows_that_equal(page.parent / "scaling-report.csv") == 5
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    hosts, ranks = hosts_and_ranks(max((stage.folder / "study" / "runs" / "g0016-r01").glob("a*")))
    assert (hosts, ranks) == (["c4140-1", "c4140-2", "c4140-3", "c4140-4"], 16)
    assert {"32", "64"} <= {line.split()[0] for line in read.splitlines() if line.strip()}


def test_clusters(stage: Stage) -> None:
    stage.follow("docs/clusters.md")
    schema = json.loads((stage.config / "cluster.schema.json").read_text())
    assert "partition" in schema["$defs"]["Cluster"]["properties"]
    found = load(stage.config / "clusters" / "mine.yaml", Cluster)
    assert (found.partition, found.nodes, found.gpus_per_node, found.device) == ("v100", 4, 4, "gpu")


def test_data(stage: Stage, mine: Cluster, xrays: int, cluster: Slurm) -> None:
    """On this machine, then as a job array: both make the same bytes."""
    jobs = ("sacct", "-X", "-n", "-P", "-o", "JobID", "--name", "hpcjobs-data")
    before = set(cluster.run(*jobs).split())
    here = stage.folder / "here"
    stage.follow("docs/data.md", between={"--cluster mine": f"mv {stage.shards} {here}"})
    assert images_in(stage.shards) == xrays
    assert {path.name: path.read_bytes() for path in stage.shards.iterdir()} == {
        path.name: path.read_bytes() for path in here.iterdir()
    }
    assert len(set(cluster.run(*jobs).split()) - before) == 4
    assert stage.sh(f"hpcjobs data verify {stage.shards}") == f"{stage.shards}: 3 shards are undamaged\n"


def test_preflight(stage: Stage, mine: Cluster, xrays: int) -> None:
    stage.write("experiments/chexnet.yaml", UNWEIGHTED)
    lists = "--metadata Data_Entry_2017_v2020.csv --train-list train_val_list.txt --test-list test_list.txt"
    stage.sh(f"hpcjobs data prepare --images images_*/ {lists} --out {stage.shards}")
    (output,) = stage.follow("docs/preflight.md")
    states = [line.split()[:2] for line in output.splitlines()]
    assert {state for state, _ in states} == {"ok"}
    names = {name for _, name in states}
    assert names == {
        "template",
        "slurm",
        "sbatch",
        "disk",
        "folder",
        "clock",
        "python",
        "tensorflow",
        "horovod",
        "data",
    }
    # The page explains each of these checks. If all succeed, no folder is left.
    assert names <= {each.text for each in code(ROOT / "docs/preflight.md") if each.kind == "span"}
    assert list(stage.folder.glob("sweeps/check-*")) == []


def test_submitting(stage: Stage, mine: Cluster, cluster: Slurm) -> None:
    stage.follow("docs/submitting.md")
    study = stage.folder / "study"
    rows = table(study)
    assert list(rows.gpus) == list(SIZES)
    assert list(rows.runs) == [3] * 5
    assert rows.score.notna().all()
    # The intention comes before the job id in the journal. Slurm knows the job by the name on the page.
    events = [json.loads(line) for line in (study / "journal.jsonl").read_text().splitlines()]
    of_16 = [event for event in events if event.get("group") == "g0016"]
    assert [event["event"] for event in of_16][:2] == ["submitting", "submitted"]
    sweep = yaml.safe_load((study / "sweep.yaml").read_text())["sweep"]
    job_names = cluster.run("sacct", "-X", "-n", "-P", "-j", of_16[1]["job"], "-o", "JobName").split()
    assert set(job_names) == {f"hpcjobs-{sweep}-g0016-s01"}
    assert (study / "runs" / "g0016-r01" / "claim-s001").exists()


def test_training(stage: Stage, mine: Cluster) -> None:
    stage.follow("docs/training.md")
    bench = stage.folder / "bench"
    assert list(table(bench).gpus) == list(SIZES)
    about = yaml.safe_load((bench / "sweep.yaml").read_text())
    assert [variant["experiment"]["mode"] for variant in about["variants"]] == ["benchmark"]


def test_templates(stage: Stage, mine: Cluster) -> None:
    (output,) = stage.follow("docs/templates.md")
    one, sixteen = re.split(r"^==> .*/g[0-9]+.sbatch <==$", output, flags=re.MULTILINE)[1:]
    assert "ulimit -l unlimited\nexport SITE_RANKS=1\n" in one
    assert "ulimit -l unlimited\nexport SITE_RANKS=16\n" in sixteen
    assert "export OMP_NUM_THREADS=1\n" in sixteen  # from the profile, before those of the template
    assert not (stage.folder / "sweeps").exists()


def test_report(stage: Stage, mine: Cluster) -> None:
    words = f"--gpus 1,2,4,8,16 --cluster mine --set data.dir={stage.shards}"
    stage.sh(f"hpcjobs sweep {words} --out study-before; hpcjobs sweep {words} --out study")
    stage.sh("hpcjobs status study-before --watch; hpcjobs status study --watch")
    (stage.folder / "their-logs").mkdir()
    for path in SAMPLES.glob("tf_cnn_fp16_*.log.gz"):
        stage.write(f"their-logs/{path.stem}", gzip.decompress(path.read_bytes()).decode())
    reported, beside, predicted, theirs = stage.follow("docs/report.md")
    assert [line.split()[0] for line in reported.splitlines()] == ["gpus", *map(str, SIZES)]
    assert "efficiency of dell-c4140-v100-2019" in beside
    # Before, the steps of the fake trainer took a fifth longer.
    assert re.findall(r"\+(\d+\.\d)% .* yes$", beside, re.MULTILINE) == ["20.0"] * 5
    assert re.search(r"^ +4 +1 .* 1\.00 +100\.0%", beside, re.MULTILINE)  # speed-up over one full node
    assert beside.count("| GPUs | runs |") == 1
    for size in (32, 64):
        assert re.search(rf"^ +{size} +\d+\.\d +\d+\.\d to \d+\.\d ", predicted, re.MULTILINE)
    assert [line.split()[0] for line in theirs.splitlines()] == ["gpus", "1", "2", "4", "8"]
    assert (stage.folder / "theirs" / "scaling-report.csv").exists()
