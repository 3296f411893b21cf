"""The data that the experiment `demo` makes up."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hpcjobs.base.contract import INSTALL_COMPUTE
from hpcjobs.base.errors import InputError
from hpcjobs.chexnet.data.quiet import quiet_tensorflow
from hpcjobs.cli import show
from hpcjobs.config import Experiment
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.planning import Plan

DEMO = "demo"
DEMO_IMAGES = 512
DEMO_SIZE = 64


def check_data(plan: Plan) -> None:
    """Raises InputError where data are missing; warns where they are not seen from here."""
    for variant in plan.variants:
        experiment = variant.experiment
        if experiment.data.dir is None and not is_made_up(experiment):
            raise InputError(
                f"experiment '{experiment.name}' needs data: make shards with `hpcjobs data prepare --out DIR ...` "
                "(or `hpcjobs data synth --out DIR`), then give --set data.dir=DIR"
            )
    if _made_up(plan) and importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"the demo makes its images here, which needs TensorFlow: {INSTALL_COMPUTE}")
    for folder in {variant.experiment.data.dir for variant in plan.variants}:
        # It may be visible on the compute nodes only: a warning, not an error.
        if folder is not None and not (Path(folder) / "dataset.json").is_file():
            show.talk(f"warning: no dataset.json in {folder} as seen from here; the runs need it where they run")


def make_data(sweep: Sweep) -> None:
    """Make the demo's images in the sweep's folder, or finish what was begun; nothing for a sweep that has data."""
    if not _made_up(sweep.plan) or (sweep.where.data / "dataset.json").is_file():
        return
    quiet_tensorflow()
    from hpcjobs.chexnet.data.build import make
    from hpcjobs.chexnet.data.synth import synth_recipe

    make(synth_recipe(images=DEMO_IMAGES, size=DEMO_SIZE), sweep.where.data)


def _made_up(plan: Plan) -> bool:
    return any(is_made_up(variant.experiment) for variant in plan.variants)


def is_made_up(experiment: Experiment) -> bool:
    """Whether its data are made up: it names none, and is the demo."""
    return experiment.data.dir is None and experiment.name == DEMO
