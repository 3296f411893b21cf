"""The built-in trainer as the control half knows it: its data, its weights, and what its runs leave on disk."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hpcjobs.base.contract import FAILURE, INSTALL_COMPUTE, Finding
from hpcjobs.base.errors import InputError
from hpcjobs.chexnet.classes import DATASET_JSON, IMAGENET_FILE
from hpcjobs.chexnet.data.quiet import quietly
from hpcjobs.config import Experiment

# The module that looks at a compute node for a check.
NODE_CHECK = "hpcjobs.chexnet.node_check"

# The most bytes that one run leaves: its logs, and the checkpoints of a model (the newest two, the one that is being
# written, and the best weights).
_LOG_BYTES = 5_000_000
_CHECKPOINT_BYTES = {"densenet121": 300_000_000, "densenet_tiny": 5_000_000}


def check_data(experiments: Iterable[Experiment], tell: Callable[[str], None]) -> None:
    """Raises InputError if an experiment names no data. `tell` receives a warning if this host does not see them."""
    experiments = list(experiments)
    for experiment in experiments:
        if experiment.data.dir is None and not makes_up_data(experiment):
            raise InputError(
                f"experiment '{experiment.name}' needs data: make shards with `hpcjobs data prepare --out DIR ...` "
                "(or `hpcjobs data synth --out DIR`), then give --set data.dir=DIR; data.synth makes up images"
            )
    if any(map(makes_up_data, experiments)) and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"data.synth makes images on this machine, which needs TensorFlow: {INSTALL_COMPUTE}")
    for folder in {experiment.data.dir for experiment in experiments}:
        # Only compute nodes may see the folder: a warning, not an error.
        if folder is not None and not (Path(folder) / DATASET_JSON).is_file():
            tell(f"warning: this host sees no {DATASET_JSON} in {folder}; the nodes of the runs need it")


def make_data(experiments: Iterable[Experiment], folder: Path) -> None:
    """Make the images of `data.synth` in `folder`, or complete what an interrupted call left there.

    Does nothing if no experiment makes up its data, or the data are complete.
    """
    synth = next((each.data.synth for each in experiments if each.data.synth is not None), None)
    if synth is None or (folder / DATASET_JSON).is_file():
        return
    with quietly():
        from hpcjobs.chexnet.data.build import make
        from hpcjobs.chexnet.data.synth import synth_recipe

        make(synth_recipe(images=synth.images, size=synth.size), folder)


def makes_up_data(experiment: Experiment) -> bool:
    """Whether hpcjobs makes up the images of the experiment."""
    return experiment.data.synth is not None


def inputs(experiments: Iterable[Experiment]) -> list[str]:
    """The absolute paths that runs of the experiments read: folders of data, then files of weights."""
    experiments = list(experiments)
    folders = [each.data.dir for each in experiments if each.data.dir]
    return [*folders, *(each.model.weights for each in experiments if each.model.weights.startswith("/"))]


def findings(experiment: Experiment) -> Iterator[Finding]:
    """The faults of an experiment that the login node can see."""
    model = experiment.model
    if model.name != "densenet121" and model.weights == "imagenet":
        yield Finding("weights", FAILURE, f"no ImageNet weights of {model.name} exist", "set model.weights=none")
    if experiment.data.dir is None and not makes_up_data(experiment):
        remedy = "`hpcjobs data prepare --out DIR ...` makes shards; give --set data.dir=DIR"
        yield Finding("data", FAILURE, f"experiment '{experiment.name}' names no data.dir", remedy)


def node_request(experiments: Iterable[Experiment]) -> dict[str, list[str]]:
    """What the check on a compute node looks for: folders of `data`, files of `weights`."""
    experiments = list(experiments)
    cached = str(Path("~/.keras/models") / IMAGENET_FILE)
    wanted = {each.model.weights for each in experiments} - {"none"}
    return {
        "data": sorted({each.data.dir for each in experiments if each.data.dir}),
        "weights": sorted(cached if each == "imagenet" else each for each in wanted),
    }


def bytes_on_disk(experiment: Experiment) -> int:
    """The most bytes that one run of the experiment leaves in the sweep's folder."""
    keeps = experiment.mode == "train" and experiment.train.checkpoint
    return _LOG_BYTES + (_CHECKPOINT_BYTES[experiment.model.name] if keeps else 0)
