"""MLPerf training logs of anyone, v0.5 to v5.x and HPC, with the lines that mlperf_lines reads.

Several ranks may write the same line: the first of an event counts. Independent figures of a run check each other
(collect/agreement.py), in this order: `training_sequences_per_second` at the end of NVIDIA's BERT; `throughput` (in
v2.x `imgs_sec`) of tracked_stats; `throughput`; the rates that scripts print beside; the samples that events count,
over time; train_samples over the time of epochs or blocks; the time of a step. A `throughput` may be one GPU's, or in
tokens; train_samples may be steps, or the samples of a plan that the run did not finish. Evaluations that the training
waits for do not count as its time, also where only the lines of their steps say when one begins. `submission_entry` of
v0.6 and keys of HPC give the GPUs: accelerators of a node x nodes. In v6.0 the batch does, with the micro batch and the
split of the model.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from typing import Any

from hpcjobs.collect import mlperf_lines
from hpcjobs.collect.agreement import Figure, Kind
from hpcjobs.collect.formats import mlperf_sets
from hpcjobs.collect.formats.mlperf_progress import Progress, number
from hpcjobs.collect.formats.mlperf_sets import Counts
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.gpu_lines import DEVICES
from hpcjobs.collect.lines import Line
from hpcjobs.collect.mlperf_lines import Event
from hpcjobs.collect.steady import Windows
from hpcjobs.collect.world import Statement

_ARGUMENTS = re.compile(r"(?:Node\[(\d+)\] )?(?:start with arguments )?Namespace\((.*)\)")
_ARGUMENT = re.compile(r"\b(batch_size|gpus|kv_store|num_examples|dtype|network)=(?:'([^']*)'|(\w+))")
# The names that the training throughput has among the figures of tracked_stats.
_RATES = ("throughput", "imgs_sec", "samples_per_sec", "samples_per_second", "images_per_second")
_SUMMARY = re.compile(r"'training_sequences_per_second': (\d+(?:\.\d+)?)")
_BEGINS = {"submission_benchmark", "cache_clear", "init_start", "run_start", "run_clear_caches"}
# These begin a run after one that never ended, if that one had trained: ranks write them before the first step.
_STARTS = {"submission_benchmark", "init_start"}
# Of tracked_stats: the time of a step of an evaluation, s, and of a training step.
_VALIDATIONS = ("validation_step_time", "val_step_time", "eval_step_time")
_STEPS = ("train_step_time", "train_step_timing", "train_step_timing in s", "step_time")
_PRINTED = re.compile(r"avg\. samples / sec: (\d+(?:\.\d+)?)|\bSpeed: (\d+(?:\.\d+)?) samples/sec")
# Events whose counters are those of the training; others count what was evaluated, or start anew.
_COUNTING = {"tracked_stats", "throughput", "train_loss", "eval_start", "eval_accuracy", "block_stop", "epoch_stop"}
_COUNTING |= {"run_stop", "opt_learning_rate"}
_IMAGES = {"resnet", "ssd", "maskrcnn", "mask_rcnn", "retinanet", "unet3d", "stable_diffusion"}
_SEQUENCES = {"bert", "gpt3", "gpt2", "llama2_70b_lora", "llama31_405b", "llama31_8b"}
# Events of a training; so long after run_stop they are of another one.
_TRAINS = ("tracked_stats", "throughput", "epoch_stop", "block_stop", "eval_start", "eval_stop", "eval_accuracy")
_SOON_S = 60
# What an event counts that only goes on in a run.
_AHEAD = ("samples_count", "epoch_num", "first_epoch_num")
# Log keys of parallelism in which a GPU has no batch of its own.
_SHARED = re.compile(r"(?:tensor|pipeline|model|context|expert)_(?:model_)?parallel")


class _Run:
    """One run."""

    def __init__(self) -> None:
        self.line = self.last = 0
        self.values: dict[str, Any] = {}
        self.at: dict[str, int] = {}  # key: line of its value
        self.arguments: dict[str, str] = {}
        self.workers: dict[str, int] = {}  # node or rank: its number of GPUs
        self.began: float | None = None
        self.ended: float | None = None
        self.status = ""
        self.summary: tuple[float, int] | None = None
        self.rates: dict[str, Windows] = {}  # tracked_stats, throughput: windows of images and s
        self.lines: dict[str, int] = {}  # the first line of each of these, and of what is printed
        self.ends: dict[str, int] = {}  # the last
        self.newest: dict[str, float] = {}  # of each of these, and of what is printed: when it came last
        self.steps = Windows()
        self.printed = Windows()
        self.seen: deque[object] = deque(maxlen=4096)
        self.progress = Progress()
        self.marks: dict[tuple[str, str], tuple[float, float]] = {}  # of events: the largest count, and when
        self.accuracy: float | None = None

    def lies(self, what: str, line: int) -> None:
        """Note that a figure has a line."""
        self.lines.setdefault(what, line)
        self.ends[what] = line

    def trained(self) -> bool:
        """Whether an epoch, a block or an evaluation has ended, or a rate was told."""
        done = self.progress
        return bool(self.rates or self.steps or done.epochs or done.blocks or done.counted or done.evals)


class MlperfReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "mlperf"
    needles = (mlperf_lines.MARK, mlperf_lines.MARK_05, b"Namespace(", b"training_sequences_per_second", b"amples")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()

    def take(self, line: Line) -> None:
        if event := mlperf_lines.event(line.text):
            self._event(line, event)
        elif match := _ARGUMENTS.search(line.text):
            found = {key: text or word for key, text, word in _ARGUMENT.findall(match[2])}
            if "batch_size" in found:
                self.run.arguments = self.run.arguments or found
                gpus = len(re.findall(r"\d+", found.get("gpus", "")))
                self.run.workers[match[1] or line.rank] = gpus
        elif match := _SUMMARY.search(line.text):
            self.run.summary = float(match[1]), line.number
        elif (match := _PRINTED.search(line.text)) and self.run.ended is None:
            rate = float(match[1] or match[2])
            if rate > 0 and not self._repeated(line.text):
                self.run.printed.add(1.0, 1 / rate)
                self.run.lies("printed", line.number)

    def _event(self, line: Line, event: Event) -> None:
        key, at, value, about = event
        if key in _BEGINS and (self.run.ended is not None or (key in _STARTS and self.run.trained())):
            self._end()
        elif self._begins_anew(key, at, about):
            last = self.run.last
            self._end()
            self.anew(last, line.number)
        run, progress = self.run, self.run.progress
        run.line = run.line or line.number
        run.last = line.number
        if key in ("tracked_stats", "throughput"):
            self._stats(line, key, at, value, about)
        elif key in ("epoch_start", "block_start", "eval_start"):
            if run.ended is None:
                if key == "epoch_start" and "benchmark" in about:  # v0.5 does not say where an epoch ends
                    progress.stop("epoch", None, at, line.number)
                progress.start(key[:5].rstrip("_"), _which(about), at, about)
        elif key in ("epoch_stop", "block_stop", "eval_stop"):
            progress.stop(key[:5].rstrip("_"), _which(about), at, line.number)
        elif key == "eval_accuracy":
            run.accuracy = number(value) if number(value) is not None else run.accuracy
        elif key == "run_start":
            run.began = at if run.began is None else run.began
        elif key == "run_stop" and run.ended is None:
            run.ended, run.status = at, str(about.get("status", ""))
        elif key not in run.values:
            run.values[key], run.at[key] = value, line.number
        if "benchmark" in about:
            run.values.setdefault("submission_benchmark", about["benchmark"])
        if key in _COUNTING and not _validates(value):
            progress.count(about, at, line.number)

    def _begins_anew(self, key: str, at: float, about: dict[str, Any]) -> bool:
        """Whether an event is of another run, whose head is lost: it trains after run_stop, or counts epochs anew.

        Other ranks' copies of what has ended have times before that end, and what sums up a run comes soon after it.
        """
        ended, progress = self.run.ended, self.run.progress
        for name in _AHEAD:
            if (value := number(about.get(name))) is not None:
                newest, then = self.run.marks.get((key, name), (value, at))
                if 2 * value < newest and at > then + _SOON_S:
                    return True
                self.run.marks[key, name] = max((newest, then), (value, at))
        if key in ("epoch_start", "block_start"):
            return (ended is not None and at > ended) or progress.again(key[:5], _which(about), at)
        return key in _TRAINS and ended is not None and at > ended + _SOON_S

    def _stats(self, line: Line, key: str, at: float, value: Any, about: dict[str, Any]) -> None:
        run = self.run
        stats = value if isinstance(value, dict) else {"throughput": value}
        rate = next((found for name in _RATES if (found := number(stats.get(name))) is not None), None)
        step = next((found for name in _STEPS if (found := number(stats.get(name))) is not None), None)
        validated = next((found for name in _VALIDATIONS if (found := number(stats.get(name))) is not None), None)
        if validated is not None and validated > 0:
            run.progress.evaluated(at - validated)
        elif step is not None:
            run.progress.trained(at - step)
        mark = next((about[name] for name in ("step", "samples_count", "epoch_num") if name in about), at)
        if step is not None and step > 0 and not self._repeated(("step", str(mark))):
            run.steps.add(1.0, step)
            run.lies("step", line.number)
        if rate is None or rate <= 0 or self._repeated((key, str(mark))):
            return
        # A rate counts for the time since the one before it: an epoch that was cut short is nearly nothing.
        now = run.progress.clock(at)
        since = run.newest.get(key, run.began if run.began is not None else now)
        run.newest[key] = now
        took = max(now - since, 1e-3)
        run.rates.setdefault(key, Windows()).add(rate * took, took)
        run.lies(key, line.number)

    def _repeated(self, mark: object) -> bool:
        """Whether another rank has written this event."""
        if mark in self.run.seen:
            return True
        self.run.seen.append(mark)
        return False

    def _figures(self, run: _Run, batch: int | None, tokens: int | None) -> list[Figure]:
        """The independent figures of a run, the one to be preferred first."""
        figures, progress, line = [], run.progress, run.line
        if run.summary:
            figures.append(Figure(Kind.OPEN, run.summary[0], run.summary[1], "training_sequences_per_second"))
        for key, words in (("tracked_stats", "throughput of tracked_stats"), ("throughput", "throughput")):
            if (windows := run.rates.get(key)) and (steady := windows.steady()):
                figures.append(Figure(Kind.OPEN, steady.rate, run.lines[key], words, steady=steady, last=run.ends[key]))
                break
        samples, kind, sure = self._samples(run, batch)
        counter = progress.counter_figure(batch, tokens, samples if sure or kind is Kind.COUNT else None, run.ended)
        epochs = progress.epoch_figure(samples, kind, sure)
        if epochs is not None and not sure and samples and samples < (batch or 2):
            epochs = dataclasses.replace(epochs, alone=False)  # Not even one batch: steps, or a placeholder.
        figures += [figure for figure in (epochs, counter) if figure is not None]
        if steady := run.printed.steady():
            words, last = "samples/sec that is printed", run.ends["printed"]
            figures.append(Figure(Kind.OPEN, steady.rate, run.lines["printed"], words, alone=False, last=last))
        if steady := run.steps.steady():
            words, last = "time of a step in tracked_stats", run.ends["step"]
            figures.append(Figure(Kind.STEP, 1 / steady.rate, run.lines["step"], words, last=last))
        local = _whole(run.values.get("batch_size_05"))
        steps = progress.counters.get("iteration")
        if local and steps is not None and (pace := steps.windows.steady()):
            words = "input_batch_size x iterations"
            figures.append(Figure(Kind.OPEN, local * pace.rate, line, words, alone=False))
        return figures

    def _samples(self, run: _Run, batch: int | None) -> tuple[float | None, Kind, bool]:
        """(samples of the training set, how they count, whether that is sure)."""
        named = number(run.values.get("train_samples"))
        samples = named or number(run.arguments.get("num_examples"))
        if not samples:
            return None, Kind.COUNT, False
        what = mlperf_sets.counts(str(run.values.get("submission_benchmark", "")), samples, batch)
        if what is Counts.STEPS and batch:
            return samples * batch, Kind.TOTAL, True
        return samples, Kind.TOTAL if what is Counts.SAMPLES else Kind.COUNT, what is Counts.SAMPLES

    def _end(self) -> None:
        run = self.run
        self.run = _Run()
        if not self.findings.ended:  # Another program begins: what is said between is of that.
            self.findings.before = run.last
        progress, batch = run.progress, _whole(run.values.get("global_batch_size"))
        tokens = _whole(run.values.get("max_sequence_length"))
        figures = self._figures(run, batch, tokens)
        headless = run.began is None and not batch and "submission_benchmark" not in run.values
        if headless:  # Nothing says what a throughput is of.
            figures = [dataclasses.replace(each, alone=each.alone and each.kind is not Kind.OPEN) for each in figures]
        epoch_s = progress.epoch_s()
        if not figures and run.began is None and epoch_s is None:
            return
        took = run.ended - run.began if run.ended is not None and run.began is not None else None
        success = run.status == "success" and took is not None
        gpus, at, nodes, model = self._machine(run, batch)
        benchmark = str(run.values.get("submission_benchmark", ""))
        self.add_run(
            run.line,
            "none",
            figures=figures,
            gpus=gpus,
            gpus_at=at,
            nodes=nodes,
            local_batch=self._local(run),
            global_batch=batch,
            accumulation=None,
            tokens=tokens,
            unit="images" if benchmark in _IMAGES else "sequences" if benchmark in _SEQUENCES else "samples",
            device="gpu" if model or run.workers else "",
            gpu_model=model,
            model=benchmark,
            precision=run.arguments.get("dtype", ""),
            epoch_s=epoch_s,
            time_to_train_s=took if success else None,
            time_to_train_kind="measured_to_target" if success else "",
            eval_s=sum(progress.evals) / len(progress.evals) if progress.evals else None,
            score=run.accuracy,
            score_name="accuracy" if run.accuracy is not None else "",
            why="the log's begin is missing: nothing says whether its throughput is of one GPU or of all"
            if headless
            else "the log has neither a throughput in tracked_stats nor train_samples and the times of epochs",
        )
        self.findings.world.apart = run.last

    def _local(self, run: _Run) -> int | None:
        """The batch of one GPU, if each rank prints arguments with one GPU."""
        each = set(run.workers.values())
        return _whole(run.arguments.get("batch_size")) if each == {1} else None

    def _machine(self, run: _Run, batch: int | None) -> tuple[int | None, tuple[int, str] | None, int | None, str]:
        """(GPUs, the line and the words that say so, nodes, the GPUs' model), None or empty if the log does not say."""
        values = run.values
        entry = str(values.get("submission_entry", ""))
        entries = {
            name: _whole(match[1]) if (match := re.search(rf"{name}\W+(\d+)", entry)) else None
            for name in ("num_accelerators", "num_nodes")
        }
        nodes, each = entries["num_nodes"], entries["num_accelerators"]
        model = re.search(r"accelerator\W+([A-Za-z][\w. -]*)", entry)
        named = model[1].strip() if model else ""
        gpus: int | None = None
        at: tuple[int, str] | None = None
        if each and nodes:
            gpus, at = each * nodes, (run.at["submission_entry"], f"{each} accelerators x {nodes} nodes")
        elif ranks := _whole(values.get("number_of_ranks")):
            gpus, at = ranks, (run.at["number_of_ranks"], "number_of_ranks")
            nodes, each = _whole(values.get("number_of_nodes")), _whole(values.get("accelerators_per_node"))
            if nodes and each:
                told = f"{nodes} nodes x {each} accelerators"
                said = Statement("all", DEVICES, nodes * each, run.at["number_of_nodes"], told)
                self.findings.world.statements.append(said)
                nodes = nodes if nodes * each == ranks else None
        elif (count := _whole(values.get("number_of_nodes"))) and (each := _whole(values.get("accelerators_per_node"))):
            gpus, nodes = count * each, count
            at = run.at["number_of_nodes"], f"{count} nodes x {each} accelerators"
        elif (local := self._local(run)) and batch and batch % local == 0:
            # Each rank prints its batch. Ranks whose lines are missing or broken still are part of the global batch.
            ranks = batch // local
            if len(run.workers) == ranks or ranks // 2 < len(run.workers) <= ranks:
                gpus, at = ranks, (run.at["global_batch_size"], f"global batch {batch} / local batch {local}")
        elif (local := _whole(values.get("local_batch_size"))) and batch and not _SHARED.search(" ".join(values)):
            accumulated = _whole(values.get("gradient_accumulation_steps"))
            if accumulated and batch % (local * accumulated) == 0:
                gpus = batch // (local * accumulated)
                at = run.at["local_batch_size"], f"global batch {batch} / local batch {local}"
        elif found := _of_batch(run, batch):
            gpus, at = found
        elif run.workers and set(run.workers.values()) != {0} and len(run.workers) == 1 and batch is None:
            gpus = sum(run.workers.values()) or None
        if nodes is None:
            platform = re.match(r"(\d+)x", str(values.get("submission_platform", "")))
            count = int(platform[1]) if platform else 0
            known = gpus or self.gpus(run.line, None).gpus
            nodes = count if count and known and known % count == 0 else None
        return gpus, at, nodes, named

    def close(self) -> None:
        if self.run.line:
            self._end()


def _which(about: dict[str, Any]) -> float | None:
    names = ("epoch_num", "first_epoch_num", "samples_count")
    return next((number(about[name]) for name in names if name in about), None)


def _validates(value: object) -> bool:
    """Whether the figures of an event are those of an evaluation alone."""
    return (
        isinstance(value, dict) and bool(value) and all(str(name).startswith(("val", "eval", "test")) for name in value)
    )


def _of_batch(run: _Run, batch: int | None) -> tuple[int, tuple[int, str]] | None:
    """(GPUs, the line and the words that say so) by the batch and by how a model is split over GPUs, as v6.0 logs them.

    GPUs of expert parallelism are among those that share the batch.
    """
    values = run.values
    micro, steps = _whole(values.get("micro_batch_size")), _whole(values.get("gradient_accumulation_steps"))
    split = [_whole(values.get(f"{name}_parallelism")) for name in ("tensor", "pipeline", "context")]
    if not (batch and micro and steps and None not in split) or batch % (micro * steps):
        return None
    of_model = math.prod(each for each in split if each)
    words = f"global batch {batch} / micro batch {micro} / {steps} accumulated x {of_model} GPUs of a model"
    return batch // (micro * steps) * of_model, (run.at["micro_batch_size"], words)


def _whole(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and found >= 1 and found == int(found) else None
