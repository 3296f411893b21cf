"""The built-in trainer as the control half knows it: its command, its data, its weights, and what its runs leave."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hpcjobs.base.columns import FLAG_SHORT_WARMUP
from hpcjobs.base.contract import FAILURE, INSTALL_COMPUTE, TRAIN_LOG, Finding, LogKey, RunConfig, warmup_steps
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import read_json
from hpcjobs.base.records import ExitRecord, Tell
from hpcjobs.base.sizes import Size
from hpcjobs.chexnet.classes import AUC_COLUMNS, AUC_CSV, DATASET_JSON, IMAGENET_FILE
from hpcjobs.chexnet.data.quiet import quietly
from hpcjobs.collect import mllog
from hpcjobs.collect.attempts import Reading
from hpcjobs.config import Cluster, Experiment
from hpcjobs.trainers import Launch, NodeCheck, Start, Variable
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment

# The most bytes that one run leaves: its logs, and the checkpoints of a model (the newest two, the one that is being
# written, and the best weights).
_LOG_BYTES = 5_000_000
_CHECKPOINT_BYTES = {"densenet121": 300_000_000, "densenet_tiny": 5_000_000}
# Options of Open MPI's mpirun that Horovod asks for (horovod.readthedocs.io/en/stable/mpi.html). They keep UCX and
# InfiniBand verbs out of its control messages: NCCL carries the data.
_TRANSPORT = ("-mca", "pml", "ob1", "-mca", "btl", "^openib")
# TensorFlow keeps the learning rate as a float32: beyond its numbers the rate would be 0, or infinite as the weights.
_LEAST_RATE, _LARGEST_RATE = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class ChexnetTrainer:
    """DenseNet-121 on ChestX-ray14, with Horovod."""

    keys: type[Experiment] = ChexnetExperiment
    needs_mpi = True
    tables: Mapping[str, Sequence[str]] = {AUC_CSV: AUC_COLUMNS}

    def check_keys(self, experiments: Sequence[Experiment], cluster: Cluster | None) -> None:
        if cluster is not None:
            _check_profile(cluster)
        for each in _ours(experiments):
            if not _LEAST_RATE <= each.lr.base <= _LARGEST_RATE:
                ends = f"{_LEAST_RATE:.3g} to {_LARGEST_RATE:.3g}"
                raise InputError(f"expected {ends}, the numbers of float32, got {each.lr.base:g}", ("lr", "base"))
        if len({each.data.synth for each in _ours(experiments)} - {None}) > 1:
            raise InputError("--set data.synth: takes one value of each key, because a sweep makes its images once")

    def check(self, experiments: Sequence[Experiment], cluster: Cluster, tell: Tell) -> None:
        self.check_keys(experiments, cluster)
        ours = _ours(experiments)
        for each in ours:
            if each.data.dir is None and each.data.synth is None:
                raise InputError(
                    f"experiment '{each.name}' needs data: make shards with `hpcjobs data prepare --out DIR ...` "
                    "(or `hpcjobs data synth --out DIR`), then give --set data.dir=DIR; data.synth makes up images"
                )
        if any(each.data.synth for each in ours) and importlib.util.find_spec("tensorflow") is None:
            raise InputError(f"data.synth makes images on this machine, which needs TensorFlow: {INSTALL_COMPUTE}")
        for folder in {each.data.dir for each in ours}:
            # Only compute nodes may see the folder: a warning, not an error.
            if folder is not None and not (Path(folder) / DATASET_JSON).is_file():
                tell(f"warning: this host sees no {DATASET_JSON} in {folder}; the nodes of the runs need it")

    def check_size(self, experiment: Experiment, size: Size) -> None:
        batch = _our(experiment).batch
        try:
            batch.split(size.gpus)
        except ValueError as error:
            is_whole = batch.local is None and batch.global_ is not None and batch.global_ % size.gpus
            raise InputError(str(error), ("batch", "global" if is_whole else "passes")) from None

    def start(self, experiment: Experiment) -> Start:
        return "rank"

    def restarts(self, experiment: Experiment) -> bool:
        return True

    def launch(self, experiment: Experiment, size: Size, cluster: Cluster) -> Launch:
        python, module = cluster.python or sys.executable, "hpcjobs.chexnet.train"
        run_yaml = (Variable("sweep"), "/runs/", Variable("run"), "/run.yaml")
        words = ((python,), ("-m",), (module,), run_yaml, ("--attempt",), (Variable("attempt_dir"),))
        return Launch(words=words, mpirun=_TRANSPORT)

    def inputs(self, experiment: Experiment) -> Sequence[str]:
        """The folder of the data, then the file of weights."""
        ours = _our(experiment)
        data = [ours.data.dir] if ours.data.dir else []
        return [*data, *([ours.model.weights] if ours.model.weights.startswith("/") else [])]

    def data_dir(self, experiment: Experiment, made: Path) -> str:
        return _our(experiment).data.dir or str(made)

    def prepare(self, experiments: Sequence[Experiment], folder: Path) -> None:
        """Make the images of `data.synth`, or complete what an interrupted call left in `folder`."""
        synth = next((each.data.synth for each in _ours(experiments) if each.data.synth is not None), None)
        if synth is None or (folder / DATASET_JSON).is_file():
            return
        with quietly():
            from hpcjobs.chexnet.data.build import make
            from hpcjobs.chexnet.data.synth import synth_recipe

            make(synth_recipe(images=synth.images, size=synth.size), folder)

    def work(self, experiment: Experiment, size: Size, repeat: int) -> float | None:
        """Images of a run, without those of evaluations; None if the size of the data is unknown on this host."""
        ours = _our(experiment)
        _, global_batch = ours.batch.split(size.gpus)
        if ours.mode == "benchmark":
            about = ours.measure
            control = 3 * about.control_passes * about.control_steps if repeat <= about.control_repeats else 0
            return (about.warmup_steps + about.max_steps + control) * global_batch
        if ours.train.steps is not None:
            return ours.train.steps * global_batch
        images = _train_images(ours)
        return None if images is None else ours.train.epochs * images

    def unit(self, experiment: Experiment) -> str:
        return "images"

    def stated_rate(self, experiment: Experiment) -> float | None:
        return _our(experiment).measure.images_per_sec_per_gpu

    def unknown_cost(self, experiment: Experiment, cluster: Cluster, *, rate_known: bool) -> str:
        if rate_known:
            return f"{DATASET_JSON}, which has the number of images, cannot be read from here"
        if cluster.device == "cpu" and self.stated_rate(experiment) is not None:
            return "no earlier sweep beside this one; measure.images_per_sec_per_gpu is for GPUs only"
        return "no earlier sweep beside this one, and no measure.images_per_sec_per_gpu"

    def may_end_early(self, experiment: Experiment) -> bool:
        ours = _our(experiment)
        return ours.mode == "benchmark" or ours.train.target_auc is not None

    def read(self, run: RunConfig, attempt: Path, exit: ExitRecord | None) -> Reading:
        log = mllog.read(attempt / TRAIN_LOG)
        about = log.last(LogKey.RUN)
        hosts = about.value.get("hosts", ()) if about and isinstance(about.value, dict) else ()
        measured = mllog.measure(log)
        is_short = warmup_steps(run.experiment) < run.experiment["measure"]["warmup_steps"]
        return Reading(
            log=attempt / TRAIN_LOG,
            finished=measured is not None,
            measurement=measured,
            progress=mllog.progress(log),
            hosts=tuple(map(str, hosts)) if isinstance(hosts, list) else (),
            timed=mllog.window_times(log),
            flags=(FLAG_SHORT_WARMUP,) if is_short else (),
        )

    def hints(self) -> Mapping[str, str]:
        return {}

    def findings(self, experiment: Experiment) -> Iterator[Finding]:
        ours = _our(experiment)
        if ours.model.name != "densenet121" and ours.model.weights == "imagenet":
            yield Finding(
                "weights", FAILURE, f"no ImageNet weights of {ours.model.name} exist", "set model.weights=none"
            )
        if ours.data.dir is None and ours.data.synth is None:
            remedy = "`hpcjobs data prepare --out DIR ...` makes shards; give --set data.dir=DIR"
            yield Finding("data", FAILURE, f"experiment '{ours.name}' names no data.dir", remedy)

    def node_check(self, experiments: Sequence[Experiment], cluster: Cluster, gpus: int, folder: Path) -> NodeCheck:
        """It imports TensorFlow and Horovod, and looks for folders of `data` and files of `weights`."""
        ours = _ours(experiments)
        cached = str(Path("~/.keras/models") / IMAGENET_FILE)
        wanted = {each.model.weights for each in ours} - {"none"}
        request = {
            "device": cluster.device,
            "launcher": cluster.launcher,
            "gpus": gpus,
            "data": sorted({each.data.dir for each in ours if each.data.dir}),
            "weights": sorted(cached if each == "imagenet" else each for each in wanted),
        }
        python = cluster.python or sys.executable
        return NodeCheck((python, "-m", "hpcjobs.chexnet.node_check", str(folder)), request)

    def bytes_on_disk(self, experiment: Experiment) -> int:
        ours = _our(experiment)
        keeps = ours.mode == "train" and ours.train.checkpoint
        return _LOG_BYTES + (_CHECKPOINT_BYTES[ours.model.name] if keeps else 0)


def _our(experiment: Experiment) -> ChexnetExperiment:
    assert isinstance(experiment, ChexnetExperiment)
    return experiment


def _ours(experiments: Iterable[Experiment]) -> list[ChexnetExperiment]:
    return [_our(each) for each in experiments]


def _check_profile(cluster: Cluster) -> None:
    if cluster.launcher == "fork":
        raise InputError(
            f"cluster '{cluster.name}': launcher fork has no MPI, which Horovod needs: give mpirun or srun"
        )
    if cluster.container.kind != "none" and cluster.python is None:
        raise InputError(
            f"cluster '{cluster.name}': container.kind {cluster.container.kind} needs python: the one inside the image"
        )


def _train_images(experiment: ChexnetExperiment) -> int | None:
    """Images of an epoch; None if the data set cannot be read from this host."""
    folder = experiment.data.dir
    about = read_json(Path(folder) / DATASET_JSON) if folder else None
    try:
        return int((about or {})["splits"]["train"]["images"])
    except (KeyError, TypeError, ValueError):
        return None
