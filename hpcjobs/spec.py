"""Typed YAML: experiments and cluster profiles, and errors that name file, key and line.

An unknown key is an error that names the nearest known one; so is a value of the wrong type. The
field docstrings (the comments below) are the reference of every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml

from hpcjobs.errors import InputError, nearest

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
OneLine = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A string that may reach a script as one word: no control characters."""
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Model(_Section, frozen=True, kw_only=True):
    """What is trained."""

    # densenet121: CheXNet's (tf.keras.applications); densenet_tiny: the same blocks, for tests.
    name: Literal["densenet121", "densenet_tiny"] = "densenet121"
    # none: random; imagenet: Keras' cached ImageNet weights; else the path of a weights file.
    weights: OneLine = "none"
    # local: each rank normalises by its own batch, as the article; sync: by the global batch.
    batch_norm: Literal["local", "sync"] = "local"
    # frequency: the last layer's bias starts at the log odds of each finding; zeros: CheXNet's.
    head_bias: Literal["zeros", "frequency"] = "zeros"


class Data(_Section, frozen=True, kw_only=True):
    """What it is trained on."""

    # The folder that holds dataset.json; relative to this file, in --set to the working folder.
    dir: OneLine | None = None
    # Records in the shuffle buffer of one rank.
    shuffle: PositiveInt = 2048
    # Data smaller than the steps asked for are repeated; else too few images are an error.
    repeat: bool = False
    # memory: each node keeps its own copy of the train and val shards in RAM, one for all its ranks.
    cache: Literal["none", "memory"] = "none"


class Augment(_Section, frozen=True, kw_only=True):
    """Random changes of training images, on the device, repeated by a resume."""

    # Mirrored left and right every other time: CheXNet's "random horizontal flipping".
    flip: bool = True
    # Turned by up to so many degrees either way; CheXNet: not.
    rotate_degrees: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    # Moved by up to this fraction of height and width either way; CheXNet: not.
    shift: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Batch(_Section, frozen=True, kw_only=True):
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


class Train(_Section, frozen=True, kw_only=True):
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


class LearningRate(_Section, frozen=True, kw_only=True):
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


class Horovod(_Section, frozen=True, kw_only=True):
    """How gradients travel. Absent: Horovod's own default."""

    # fp16: gradients are halved in size for the all-reduce.
    compression: Literal["none", "fp16"] = "none"
    # Gradients are gathered into buffers of so many MiB (HOROVOD_FUSION_THRESHOLD) ...
    fusion_mib: Annotated[float, msgspec.Meta(ge=0)] | None = None
    # ... every so many milliseconds (HOROVOD_CYCLE_TIME).
    cycle_ms: PositiveFloat | None = None


class Measure(_Section, frozen=True, kw_only=True):
    """Which steps make the figures."""

    # Steps before the steady state begins; at most half of train.steps.
    warmup_steps: NonNegativeInt = 10
    # Steps per timed window.
    window_steps: PositiveInt = 5


class Experiment(_Section, frozen=True, kw_only=True):
    """One training, at any number of GPUs."""

    name: Name
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
    description: str = ""

    def __post_init__(self) -> None:
        if self.train.steps == 1:
            raise ValueError("train.steps 1 cannot be timed: the first step compiles; 2 are the least")


class Cluster(_Section, frozen=True, kw_only=True):
    """A site: how its jobs are asked for and started."""

    name: Name
    description: str = ""
    # slurm: sbatch; local: this machine.
    scheduler: Literal["slurm", "local"] = "slurm"
    # srun: `srun --mpi=MPI_PLUGIN`; mpirun: Open MPI's.
    launcher: Literal["srun", "mpirun"] = "srun"
    mpi_plugin: OneLine = "pmix"
    # More arguments for the launcher.
    launcher_options: tuple[OneLine, ...] = ()
    # cpu or gpu: what the ranks compute on. Never guessed.
    device: Literal["cpu", "gpu"] = "gpu"
    # Nodes that one job may have; absent: no bound known here.
    nodes: PositiveInt | None = None
    # Ranks (one GPU each) that fill a node; absent: any number fits on one node.
    gpus_per_node: PositiveInt | None = None
    # How GPUs are asked for: --gres=gpu[:TYPE]:N, --gpus-per-node=[TYPE:]N, or not at all.
    gpu_request: Literal["gres", "gpus-per-node", "none"] = "gres"
    gpu_type: OneLine | None = None
    # Physical CPUs that each rank gets, the same at every size.
    cpus_per_gpu: PositiveInt = 1
    # Memory per rank in MiB, the same at every size; absent: the site's default.
    mem_per_gpu_mib: PositiveInt | None = None
    # exclusive: whole nodes; shared: other jobs may run beside, and the rows are marked.
    sharing: Literal["exclusive", "shared"] = "exclusive"
    # true: a count that does not fill its nodes evenly is allowed.
    uneven_nodes: bool = False
    # cores: each rank is bound to its share of the CPUs; none: it is not.
    bind: Literal["cores", "none"] = "cores"
    partition: OneLine | None = None
    account: OneLine | None = None
    qos: OneLine | None = None
    reservation: OneLine | None = None
    constraint: OneLine | None = None
    exclude: OneLine | None = None
    # Slurm's forms: MINUTES, HH:MM:SS, D-HH:MM:SS.
    time: Annotated[str, msgspec.Meta(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] | None = None
    # More #SBATCH options, without the dashes, such as {mail-type: FAIL}; true: a flag.
    sbatch: dict[Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]*$")], OneLine | int | bool] = {}
    # `module load` lines, in order.
    modules: tuple[OneLine, ...] = ()
    # Shell lines run before the launcher, as they are.
    prologue: str = ""
    # Environment of the ranks.
    env: dict[VariableName, OneLine] = {}
    # The Python that has the compute half; absent: the one that runs hpcjobs.
    python: OneLine | None = None
    # A template of your own, which may extend base.sbatch.j2; relative to this file.
    template: OneLine | None = None

    def __post_init__(self) -> None:
        owned = sorted(set(self.sbatch) & OWNED_SBATCH)
        if owned:
            raise ValueError(f"sbatch.{owned[0]} is set by hpcjobs itself; use the profile's own key or leave it out")
        if self.gpu_request != "none" and self.gpus_per_node is None:
            raise ValueError(f"gpu_request {self.gpu_request} needs gpus_per_node")


# What hpcjobs writes into the script or onto sbatch's command line itself.
OWNED_SBATCH = frozenset(
    (
        "account",
        "array",
        "comment",
        "constraint",
        "cpus-per-gpu",
        "cpus-per-task",
        "error",
        "exclude",
        "exclusive",
        "gpus",
        "gpus-per-node",
        "gpus-per-task",
        "gres",
        "job-name",
        "mem",
        "mem-per-cpu",
        "mem-per-gpu",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "oversubscribe",
        "parsable",
        "partition",
        "qos",
        "requeue",
        "reservation",
        "time",
        "wait",
        "wrap",
    )
)

Spec = TypeVar("Spec", Experiment, Cluster)


def load(path: Path, kind: type[Spec]) -> Spec:
    """Read one YAML file as `kind`.

    Raises InputError (file, line, key, what would be right) where it is missing or wrong.
    """
    return convert(read_yaml(path), kind)


class Document:
    """A YAML mapping, where it came from, and the line of each of its keys."""

    def __init__(self, source: str, data: dict[str, Any], lines: Mapping[tuple[str, ...], int]):
        self.source = source
        self.data = data
        self.lines = lines

    def where(self, keys: tuple[str, ...]) -> str:
        """`FILE:LINE`, of the key or the nearest section around it that stands in the file."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                place = self.lines[keys[:end]]
                return f"{self.source}:{place}" if place else "--set"
        return self.source

    def set(self, key: str, value: Any) -> None:
        """Override one dotted key, as `--set` does. Raises InputError where a parent is no mapping."""
        keys = tuple(key.split("."))
        target = self.data
        for part in keys[:-1]:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"--set {key}: '{part}' is not a section")
            target = inner
        # The two ways to give the batch exclude each other: setting one takes the other's place.
        if keys == ("batch", "local"):
            target.pop("global", None)
        elif keys == ("batch", "global"):
            target.pop("local", None)
        target[keys[-1]] = value
        self.lines = {**self.lines, keys: 0}


def read_yaml(path: Path) -> Document:
    """Parse a YAML file. Raises InputError for a missing file, bad syntax, or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected 'key: value' lines")
    lines: dict[tuple[str, ...], int] = {}
    _collect_lines(path, node, (), lines)
    return Document(str(path), data, lines)


def _collect_lines(path: Path, node: Any, keys: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner = (*keys, str(key.value))
        line = key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise InputError(f"{path}:{line}: key '{'.'.join(inner)}' is read as something other than text: quote it")
        if inner in lines:
            raise InputError(
                f"{path}:{line}: key '{'.'.join(inner)}' stands there twice (first in line {lines[inner]})"
            )
        lines[inner] = line
        _collect_lines(path, value, inner, lines)


def convert(document: Document, kind: type[Spec]) -> Spec:
    """Check a document against its type. Raises InputError for the first thing that is wrong."""
    try:
        return msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise InputError(_explain(document, kind, str(error))) from None


_PLACE = re.compile(r" - at `(?P<path>(?:key in )?\$[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")


def _explain(document: Document, kind: type, message: str) -> str:
    match = _PLACE.search(message)
    text = message[: match.start()] if match else message
    path = match["path"].removeprefix("key in ") if match else "$"
    keys = tuple(re.findall(r"\.([A-Za-z_][\w-]*)", path))
    if unknown := _UNKNOWN.search(text):
        full = (*keys, unknown[1])
        return f"{document.where(full)}: unknown key '{'.'.join(full)}': {nearest(unknown[1], known_keys(kind, keys))}"
    if missing := _MISSING.search(text):
        full = (*keys, missing[1])
        return f"{document.where(keys)}: key '{'.'.join(full)}' is missing"
    where = document.where(keys)
    label = f"key '{'.'.join(keys)}': " if keys else ""
    value: Any = document.data
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    text = _plainly(text)
    # What was found helps more than its type.
    found = f", got {value!r}" if keys and text.startswith("expected") and not isinstance(value, dict) else ""
    return f"{where}: {label}{text}{found}"


_PLAIN_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "array": "a list"}


def _plainly(text: str) -> str:
    """msgspec's message in the words of YAML."""
    text = re.sub(r", got `[^`]*`$", "", text[0].lower() + text[1:])
    text = text.replace(" | null`", "`")
    return re.sub(
        r"`(\w+)`", lambda match: _PLAIN_TYPES.get(match[1], "a section" if match[1] == "object" else match[0]), text
    )


def known_keys(kind: type, keys: tuple[str, ...] = ()) -> list[str]:
    """Names of the keys that section `keys` of `kind` may hold."""
    for key in keys:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        inner = fields.get(key)
        if not (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
            return []
        kind = inner
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def to_builtins(spec: Experiment | Cluster) -> dict[str, Any]:
    """The spec as plain mappings, every default spelt out, ready for YAML."""
    result: dict[str, Any] = msgspec.to_builtins(spec)
    return result


def parse_scalar(text: str) -> Any:
    """A value of `--set`, read as YAML would read it."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    return text if isinstance(value, (dict, list)) or (value is None and text.strip().lower() != "null") else value
