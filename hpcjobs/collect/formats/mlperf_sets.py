"""How many samples the training sets have that MLPerf's rules fix, as a check of what a log calls train_samples.

github.com/mlcommons/training_policies: training_rules.adoc names the sets. The counts are those that submitters of
each round log. `ssd` is COCO until v1.1 and OpenImages (RetinaNet) from v2.0 on.
"""

from __future__ import annotations

import enum

_COCO = (117266, 118287)
_OPEN_IMAGES = (1170301,)
_SETS: dict[str, tuple[int, ...]] = {
    "resnet": (1281167,),
    "ssd": (*_COCO, *_OPEN_IMAGES),
    "retinanet": _OPEN_IMAGES,
    "maskrcnn": _COCO,
    "mask_rcnn": _COCO,
    "unet3d": (168,),
    "dlrm": (4195197692,),
    "dlrm_dcnv2": (4195197692,),
    "llama2_70b_lora": (3901,),
}
# Sets are padded to whole batches, or their last batch is dropped.
_NEAR = 0.02


class Counts(enum.Enum):
    """What the train_samples of a log count."""

    SAMPLES = "samples"
    STEPS = "steps"
    UNKNOWN = "not known"


def counts(benchmark: str, train_samples: float, batch: int | None) -> Counts:
    """What `train_samples` counts: the set's samples, or its steps at a global `batch`. Unknown for other sets."""
    for size in _SETS.get(benchmark, ()):
        if abs(train_samples / size - 1) <= _NEAR:
            return Counts.SAMPLES
        # From one batch less to one batch more.
        if batch and batch > 1 and abs(train_samples * batch - size) <= max(_NEAR * size, batch):
            return Counts.STEPS
    return Counts.UNKNOWN
