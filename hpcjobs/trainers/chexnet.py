"""The data of an experiment: whether they are there, and the images that `data.synth` makes up."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hpcjobs.base.contract import INSTALL_COMPUTE
from hpcjobs.base.errors import InputError
from hpcjobs.cli import show
from hpcjobs.cli.data_command import quiet_tensorflow
from hpcjobs.config import Experiment
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.planning import Plan


def check_data(plan: Plan) -> None:
    """Raises InputError where an experiment names no data; warns where its data are not visible from this machine."""
    for variant in plan.variants:
        experiment = variant.experiment
        if experiment.data.dir is None and not is_made_up(experiment):
            raise InputError(
                f"experiment '{experiment.name}' needs data: make shards with `hpcjobs data prepare --out DIR ...` "
                "(or `hpcjobs data synth --out DIR`), then give --set data.dir=DIR"
            )
    made_up = any(is_made_up(variant.experiment) for variant in plan.variants)
    if made_up and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"data.synth makes images on this machine, which needs TensorFlow: {INSTALL_COMPUTE}")
    for folder in {variant.experiment.data.dir for variant in plan.variants}:
        # The folder may be visible on the compute nodes only: a warning, not an error.
        if folder is not None and not (Path(folder) / "dataset.json").is_file():
            show.talk(f"warning: no dataset.json in {folder} as seen from here; the runs need it where they run")


def make_data(sweep: Sweep) -> None:
    """Makes the images of `data.synth` in the sweep's folder. Completes what an interrupted call left."""
    synth = next((synth for variant in sweep.plan.variants if (synth := variant.experiment.data.synth)), None)
    if synth is None or (sweep.where.data / "dataset.json").is_file():
        return
    quiet_tensorflow()
    from hpcjobs.chexnet.data.build import make
    from hpcjobs.chexnet.data.synth import synth_recipe

    make(synth_recipe(images=synth.images, size=synth.size), sweep.where.data)


def is_made_up(experiment: Experiment) -> bool:
    """Whether hpcjobs makes up the experiment's data."""
    return experiment.data.synth is not None
