"""What is trained, and how: the keys of an experiment. The comments are the reference of every key."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hpcjobs.config.words import Fraction, Name, NonNegativeInt, OneLine, PositiveFloat, PositiveInt, Section


class Model(Section, frozen=True, kw_only=True):
    """What is trained."""

    # densenet121: CheXNet's (tf.keras.applications); densenet_tiny: the same blocks, for tests.
    name: Literal["densenet121", "densenet_tiny"] = "densenet121"
    # none: random; imagenet: Keras' cached ImageNet weights; else the path of a weights file.
    weights: OneLine = "none"
    # local: each rank normalises by its own batch, as the article; sync: by the global batch.
    batch_norm: Literal["local", "sync"] = "local"
    # frequency: the last layer's bias starts at the log odds of each finding; zeros: CheXNet's.
    head_bias: Literal["zeros", "frequency"] = "zeros"


class Data(Section, frozen=True, kw_only=True):
    """What it is trained on."""

    # The folder that holds dataset.json; relative to this file, in --set to the working folder.
    dir: OneLine | None = None
    # Records in the shuffle buffer of one rank.
    shuffle: PositiveInt = 2048
    # Data smaller than the steps asked for are repeated; else too few images are an error.
    repeat: bool = False
    # memory: each node keeps its own copy of the train and val shards in RAM, one for all its ranks.
    cache: Literal["none", "memory"] = "none"


class Augment(Section, frozen=True, kw_only=True):
    """Random changes of training images, on the device, repeated by a resume."""

    # Mirrored left and right every other time: CheXNet's "random horizontal flipping".
    flip: bool = True
    # Turned by up to so many degrees either way; CheXNet: not.
    rotate_degrees: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    # Moved by up to this fraction of height and width either way; CheXNet: not.
    shift: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Batch(Section, frozen=True, kw_only=True):
    """Exactly one of the two: a fixed local batch is weak scaling, a fixed global one strong."""

    # Images per GPU and step.
    local: PositiveInt | None = None
    # Images per step over all GPUs.
    global_: PositiveInt | None = msgspec.field(name="global", default=None)
    # A step's local batch goes through the network in so many equal parts, whose gradients are added
    # up before the all-reduce: less memory, the same step.
    passes: PositiveInt = 1

    def __post_init__(self) -> None:
        if (self.local is None) == (self.global_ is None):
            raise ValueError("give exactly one of batch.local (weak scaling) and batch.global (strong scaling)")


class Train(Section, frozen=True, kw_only=True):
    """How long, and what is done beside the steps."""

    # Epochs of the whole training; the article's 10.
    epochs: PositiveInt = 10
    # Stop after so many steps in all; absent: whole epochs.
    steps: PositiveInt | None = None
    # Validation AUC at the end of each epoch (and of a run cut short by `steps`).
    evaluate: bool = True
    # Checkpoints by rank 0 at the end of each epoch; what was interrupted goes on from the newest.
    checkpoint: bool = True
    # Minutes between the checkpoints within an epoch.
    checkpoint_min: PositiveFloat = 15.0
    # Mean validation AUC at which the training ends early.
    target_auc: Fraction | None = None
    # Test AUC of the best checkpoint, with 95 % intervals, after the training.
    test: bool = True
    # float32 is the article's; mixed_float16 (V100) scales the loss, mixed_bfloat16 (A100 on) need not.
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    # TensorFlow's XLA compiler, on GPUs.
    xla: bool = False
    # Gradients are shortened to this global norm, after the all-reduce; absent: not, as in the article.
    clip_norm: PositiveFloat | None = None
    # inverse: CheXNet's weights, positives by the share of negatives and the other way round; none: the article's.
    class_weights: Literal["none", "inverse"] = "none"
    # Seconds without a step or a batch of evaluation after which a rank ends the run.
    stall_s: PositiveInt = 600


class LearningRate(Section, frozen=True, kw_only=True):
    """Adam's rate, and how it rises and falls."""

    # At the reference batch; the article's and CheXNet's 0.001.
    base: PositiveFloat = 0.001
    # base is multiplied by r = global batch / reference_batch (linear: Goyal et al. 2017, arXiv:1706.02677),
    # by its root (sqrt: Krizhevsky 2014, arXiv:1404.5997), or not (none: the article's).
    scaling: Literal["none", "linear", "sqrt"] = "none"
    # The batch of one of the article's GPUs.
    reference_batch: PositiveInt = 64
    # The rate rises in a line, step by step, over so many epochs; Goyal et al.: 5, the article: none.
    warmup_epochs: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    # The rate is multiplied by this when the validation loss has not improved ...
    plateau_factor: Fraction = 0.1
    # ... for so many epochs.
    plateau_patience: PositiveInt = 1


class Horovod(Section, frozen=True, kw_only=True):
    """How gradients travel. Absent: Horovod's own default."""

    # fp16: gradients are halved in size for the all-reduce.
    compression: Literal["none", "fp16"] = "none"
    # Gradients are gathered into buffers of so many MiB (HOROVOD_FUSION_THRESHOLD) ...
    fusion_mib: Annotated[float, msgspec.Meta(ge=0)] | None = None
    # ... every so many milliseconds (HOROVOD_CYCLE_TIME).
    cycle_ms: PositiveFloat | None = None


class Measure(Section, frozen=True, kw_only=True):
    """Which steps make the figures."""

    # Steps before the steady state begins. mode train: at most half of train.steps; mode benchmark: these at
    # least, then until three successive windows of three steps agree within 2 %.
    warmup_steps: NonNegativeInt = 10
    # Steps per timed window.
    window_steps: PositiveInt = 5
    # mode benchmark, as are the next four: the timed steps end when the 95 % half-width of their mean, as a
    # fraction of it, is this ...
    precision: Fraction = 0.01
    # ... or after so many.
    max_steps: Annotated[int, msgspec.Meta(ge=20)] = 300
    # So many of the repeats, the first ones, take the step apart into input, all-reduce and skew.
    control_repeats: NonNegativeInt = 1
    # Blocks of each control phase, in turn forwards and backwards ...
    control_passes: PositiveInt = 2
    # ... and the timed steps of each.
    control_steps: Annotated[int, msgspec.Meta(ge=2)] = 3
    # What one GPU is expected to do: the plan reckons GPU-hours by it where no earlier sweep measured any.
    images_per_sec_per_gpu: PositiveFloat | None = None


class Experiment(Section, frozen=True, kw_only=True):
    """One training, at any number of GPUs."""

    # Reports show it; a sweep's folder begins with it.
    name: Name
    # train: the whole training, with evaluations and checkpoints; benchmark: steps alone, as many as a step
    # time of measure.precision takes.
    mode: Literal["train", "benchmark"] = "train"
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    batch: Batch
    train: Train = Train()
    lr: LearningRate = LearningRate()
    horovod: Horovod = Horovod()
    measure: Measure = Measure()
    # Runs of each point of the study, unless --repeats says otherwise.
    repeats: PositiveInt = 3
    # Seed of repeat 1; repeat r has seed + r - 1.
    seed: NonNegativeInt = 1
    # For people.
    description: str = ""

    def __post_init__(self) -> None:
        if self.train.steps == 1:
            raise ValueError("train.steps 1 cannot be timed: the first step compiles; 2 are the least")
