"""The keys of CheXNet's experiments, each with its description."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from hpcjobs.base.contract import divide_batch
from hpcjobs.config import Experiment
from hpcjobs.config.words import (
    Fraction,
    NonNegativeInt,
    OneLine,
    PositiveFloat,
    PositiveInt,
    Section,
    doc,
    path_doc,
)
from hpcjobs.trainers.measure_words import (
    ControlPasses,
    ControlRepeats,
    ControlSteps,
    MaxSteps,
    PartsPrecision,
    Precision,
    WindowSteps,
)


class Model(Section, frozen=True, kw_only=True):
    """The network, and the values it starts from."""

    name: Annotated[
        Literal["densenet121", "densenet_tiny"],
        doc(
            "densenet121: the network of CheXNet (tf.keras.applications); densenet_tiny: a few layers of the same "
            "kind, for tests."
        ),
    ] = "densenet121"
    weights: Annotated[
        OneLine,
        path_doc(
            "none: random values; imagenet: the ImageNet weights in Keras' cache; else the path of a weights file.",
            words=("none", "imagenet"),
        ),
    ] = "none"
    batch_norm: Annotated[
        Literal["local", "sync"],
        doc("local: each rank normalises by its own batch, as in the article; sync: by the global batch."),
    ] = "local"
    head_bias: Annotated[
        Literal["zeros", "frequency"],
        doc(
            "zeros: the last layer's bias starts at zero, as in CheXNet; frequency: at the log odds of each finding in "
            "the training data."
        ),
    ] = "zeros"


class Synth(Section, frozen=True, kw_only=True):
    """Images to make up in the sweep's folder, in place of data.dir, such as {images: 512, size: 64}."""

    images: Annotated[int, msgspec.Meta(ge=3), doc("Images in all; 70 % are for training, 10 % validate, 20 % test.")]
    size: Annotated[int, msgspec.Meta(ge=32, le=1024), doc("Height and width of an image, in pixels.")]


class Data(Section, frozen=True, kw_only=True):
    """What the network is trained on."""

    EXCLUSIVE: ClassVar = ("dir", "synth")

    dir: Annotated[
        OneLine | None,
        path_doc(
            "Folder that holds dataset.json. A relative path starts at the folder of this file; in --set, at the "
            "working folder.",
            folder=True,
        ),
    ] = None
    synth: Synth | None = None
    shuffle: Annotated[PositiveInt, doc("Records in the shuffle buffer of one rank.")] = 2048
    repeat: Annotated[
        bool,
        doc("true: data that are too few for the steps asked for are repeated; false: too few images are an error."),
    ] = False
    cache: Annotated[
        Literal["none", "memory"],
        doc(
            "memory: each node keeps one copy of the train and val shards in RAM, which its ranks share; none: the "
            "ranks read the files."
        ),
    ] = "none"

    def __post_init__(self) -> None:
        if self.dir is not None and self.synth is not None:
            raise ValueError("give one of data.dir (existing images) and data.synth (images to make up), not both")


class Augment(Section, frozen=True, kw_only=True):
    """Random changes of training images, made on the device. A resumed run makes the same changes again."""

    flip: Annotated[
        bool,
        doc('true: an image is mirrored left to right with probability 1/2, CheXNet\'s "random horizontal flipping".'),
    ] = True
    rotate_degrees: Annotated[
        float,
        msgspec.Meta(ge=0, le=180),
        doc("Images are rotated by a random angle, up to this one either way; CheXNet does not rotate."),
    ] = 0.0
    shift: Annotated[
        float,
        msgspec.Meta(ge=0, lt=1),
        doc("Images are moved by a random fraction, up to this one either way, of height and width; CheXNet: 0."),
    ] = 0.0


class Batch(Section, frozen=True, kw_only=True):
    """Images per step. Give exactly one of local (fixed per GPU: weak scaling) and global (strong scaling)."""

    EXCLUSIVE: ClassVar = ("local", "global")

    local: Annotated[PositiveInt | None, doc("Images per GPU and step.")] = None
    global_: Annotated[PositiveInt | None, doc("Images per step over all GPUs.")] = msgspec.field(
        name="global", default=None
    )
    passes: Annotated[
        PositiveInt,
        doc(
            "Equal parts into which a rank splits its local batch. It adds up their gradients before the all-reduce: "
            "less memory for the same step."
        ),
    ] = 1

    def __post_init__(self) -> None:
        if (self.local is None) == (self.global_ is None):
            raise ValueError("give exactly one of batch.local (weak scaling) and batch.global (strong scaling)")

    def split(self, gpus: int) -> tuple[int, int]:
        """(local, global) batch of `gpus` ranks, in images.

        Raises ValueError where the global batch does not divide over the ranks, or the local one into its passes.
        """
        return divide_batch(self.local, self.global_, self.passes, gpus)


class Train(Section, frozen=True, kw_only=True):
    """How long the training lasts, and what it does beside the steps."""

    epochs: Annotated[PositiveInt, doc("Epochs of the whole training; the article: 10.")] = 10
    steps: Annotated[
        PositiveInt | None, doc("The training stops after this many steps in all; absent: it runs whole epochs.")
    ] = None
    evaluate: Annotated[
        bool, doc("true: the validation AUC is computed after each epoch, and where `steps` ends a run early.")
    ] = True
    checkpoint: Annotated[
        bool,
        doc("true: rank 0 writes a checkpoint after each epoch. An interrupted run continues from the newest one."),
    ] = True
    checkpoint_min: Annotated[PositiveFloat, doc("Minutes between the checkpoints within an epoch.")] = 15.0
    target_auc: Annotated[
        Fraction | None, doc("The training ends early at this mean validation AUC; absent: it does not.")
    ] = None
    test: Annotated[
        bool,
        doc("true: after the training, the best checkpoint's AUC on the test split is computed, with 95 % intervals."),
    ] = True
    precision: Annotated[
        Literal["float32", "mixed_float16", "mixed_bfloat16"],
        doc(
            "float32: the article's; mixed_float16 (V100 and later) scales the loss; mixed_bfloat16 (A100 and later) "
            "does not need to."
        ),
    ] = "float32"
    xla: Annotated[bool, doc("true: TensorFlow compiles the step with XLA, on GPUs.")] = False
    clip_norm: Annotated[
        PositiveFloat | None,
        doc("Gradients are clipped to this global norm after the all-reduce; absent: not, as in the article."),
    ] = None
    class_weights: Annotated[
        Literal["none", "inverse"],
        doc(
            "inverse: CheXNet's weights: a positive counts by the share of negatives, a negative by the share of "
            "positives; none: all count the same, as in the article."
        ),
    ] = "none"
    stall_s: Annotated[
        PositiveInt, doc("A rank ends the run after this many seconds without a training step or an evaluation batch.")
    ] = 600


class LearningRate(Section, frozen=True, kw_only=True):
    """Adam's learning rate: its value, its warm-up, and its decay on a plateau."""

    base: Annotated[
        PositiveFloat, doc("Learning rate at the reference batch; the article's and CheXNet's is 0.001.")
    ] = 0.001
    scaling: Annotated[
        Literal["none", "linear", "sqrt"],
        doc(
            "Factor on base, with r = global batch / reference_batch. linear: r (Goyal et al. 2017, arXiv:1706.02677); "
            "sqrt: the square root of r (Krizhevsky 2014, arXiv:1404.5997); none: 1, as in the article."
        ),
    ] = "none"
    reference_batch: Annotated[
        PositiveInt, doc("Global batch at which base applies; 64 is the batch of one of the article's GPUs.")
    ] = 64
    warmup_epochs: Annotated[
        float,
        msgspec.Meta(ge=0),
        doc("Epochs over which the rate rises linearly, step by step. Goyal et al.: 5; the article: 0."),
    ] = 0.0
    plateau_factor: Annotated[
        Fraction,
        doc("The rate is multiplied by this when the validation loss has not improved for plateau_patience epochs."),
    ] = 0.1
    plateau_patience: Annotated[
        PositiveInt, doc("Epochs without a better validation loss before the rate is multiplied by plateau_factor.")
    ] = 1


class Horovod(Section, frozen=True, kw_only=True):
    """How gradients travel between the ranks. Where a key is absent, Horovod's own default applies."""

    compression: Annotated[
        Literal["none", "fp16"],
        doc("fp16: gradients are sent as 16-bit numbers, half the bytes of the all-reduce; none: as they are."),
    ] = "none"
    fusion_mib: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | None,
        doc("Size in MiB of the buffer that gathers gradients for one all-reduce (HOROVOD_FUSION_THRESHOLD)."),
    ] = None
    cycle_ms: Annotated[
        PositiveFloat | None,
        doc("Milliseconds between two rounds in which Horovod gathers gradients (HOROVOD_CYCLE_TIME)."),
    ] = None


class Measure(Section, frozen=True, kw_only=True):
    """Which steps are timed."""

    warmup_steps: Annotated[
        NonNegativeInt,
        doc(
            "Steps before the steady state begins. mode train: at most half of train.steps. mode benchmark: at least "
            "these, then more until three successive windows of three steps agree within 2 %."
        ),
    ] = 10
    window_steps: WindowSteps = 5
    precision: Precision = 0.01
    max_steps: MaxSteps = 300
    control_repeats: ControlRepeats = 1
    control_passes: ControlPasses = 16
    parts_precision: PartsPrecision = 0.02
    control_steps: ControlSteps = 3
    images_per_sec_per_gpu: Annotated[
        PositiveFloat | None,
        doc(
            "Expected throughput of one GPU. The plan computes GPU-hours from it where no earlier sweep measured the "
            "throughput."
        ),
    ] = None


class ChexnetExperiment(Experiment, frozen=True, kw_only=True):
    """One training of CheXNet, at any number of GPUs."""

    trainer: Annotated[
        Literal["chexnet"], doc("chexnet: the trainer that comes with hpcjobs; command: any training command.")
    ] = "chexnet"
    mode: Annotated[
        Literal["train", "benchmark"],
        doc(
            "train: the whole training, with evaluations and checkpoints; benchmark: steps alone, until their time is "
            "known to measure.precision."
        ),
    ] = "train"
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    batch: Batch
    train: Train = Train()
    lr: LearningRate = LearningRate()
    horovod: Horovod = Horovod()
    measure: Measure = Measure()

    def __post_init__(self) -> None:
        if self.train.steps == 1:
            raise ValueError("train.steps 1 cannot be timed, because the first step compiles: give 2 or more")
