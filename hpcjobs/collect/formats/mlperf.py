"""MLPerf training logs of anyone, with the lines that mlperf_lines reads.

Several ranks may write the same line: the first of an event counts. The rate is what the log calls one, if it does:
`training_sequences_per_second` at the end of NVIDIA's BERT, else `tracked_stats` (`throughput`; `imgs_sec` in v2.x),
else `throughput`. Else it is `train_samples` over the time of epochs (or blocks) without their validation. The
arguments that NVIDIA's scripts for MXNet print, one line by each rank, may give the samples (num_examples) and the
number of GPUs. `submission_entry` of v0.6 may give the GPUs too: accelerators of a node x nodes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from hpcjobs.collect import mlperf_lines
from hpcjobs.collect.formats.context import Context
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line
from hpcjobs.collect.mlperf_lines import Event
from hpcjobs.collect.steady import Windows, scaled

_ARGUMENTS = re.compile(r"(?:Node\[(\d+)\] )?(?:start with arguments )?Namespace\((.*)\)")
_ARGUMENT = re.compile(r"\b(batch_size|gpus|kv_store|num_examples|dtype|network)=(?:'([^']*)'|(\w+))")
# The names that the training throughput has among the figures of tracked_stats.
_RATES = ("throughput", "imgs_sec", "samples_per_sec", "samples_per_second", "images_per_second")
_SUMMARY = re.compile(r"'training_sequences_per_second': (\d+(?:\.\d+)?)")
_BEGINS = {"submission_benchmark", "cache_clear", "init_start", "run_start"}
_IMAGES = {"resnet", "ssd", "maskrcnn", "retinanet", "unet3d", "rnnt_", "minigo_"}
_SEQUENCES = {"bert", "gpt3", "gpt2", "llama2_70b_lora", "llama31_405b", "llama31_8b"}


class _Run:
    """One run."""

    def __init__(self) -> None:
        self.line = 0
        self.values: dict[str, Any] = {}
        self.arguments: dict[str, str] = {}
        self.workers: dict[str, int] = {}  # node or rank: its number of GPUs
        self.began: float | None = None
        self.ended: float | None = None
        self.status = ""
        self.summary: float | None = None
        self.stats = Windows()
        self.throughputs = Windows()
        self.seen: deque[object] = deque(maxlen=4096)
        self.open: dict[str, tuple[object, float]] = {}  # epoch, block or eval: its number and the time of its start
        self.validation = 0.0  # s of evaluations within the open epoch or block
        self.epochs = Windows()
        self.blocks = Windows()
        self.evals: list[float] = [0.0, 0.0]  # number, total s
        self.accuracy: float | None = None


class MlperfReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "mlperf"
    needles = (mlperf_lines.MARK, b"Namespace(", b"nproc", b"training_sequences_per_second")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()
        self.context = Context()

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
            self.run.summary = float(match[1])
        elif "nproc" in line.text:
            self.context.take(line.text)

    def _event(self, line: Line, event: Event) -> None:
        key, at, value, about = event
        if self.run.ended is not None and key in _BEGINS:
            self._end()
        run = self.run
        if run.ended is not None:
            return  # another rank's copy of the end, or a line after it
        run.line = run.line or line.number
        if key in ("tracked_stats", "throughput"):
            stats = value if isinstance(value, dict) else {"throughput": value}
            rate = next((number for name in _RATES if (number := _number(stats.get(name))) is not None), None)
            mark = next((about[name] for name in ("step", "samples_count", "epoch_num") if name in about), at)
            if rate is not None and rate > 0 and not self._repeated((key, str(mark))):
                (run.stats if key == "tracked_stats" else run.throughputs).add(1.0, 1 / rate)
        elif key in ("epoch_start", "block_start", "eval_start"):
            self._start(key[:5].rstrip("_"), about, at)
        elif key in ("epoch_stop", "block_stop", "eval_stop"):
            self._stop(key[:5].rstrip("_"), about, at)
        elif key == "eval_accuracy":
            run.accuracy = _number(value) if _number(value) is not None else run.accuracy
        elif key == "run_start":
            run.began = at if run.began is None else run.began
        elif key == "run_stop":
            run.ended, run.status = at, str(about.get("status", ""))
        else:
            run.values.setdefault(key, value)

    def _repeated(self, mark: object) -> bool:
        """Whether another rank has written this event."""
        if mark in self.run.seen:
            return True
        self.run.seen.append(mark)
        return False

    def _start(self, what: str, about: dict[str, Any], at: float) -> None:
        mark = (what, str(_which(about)))
        if mark not in self.run.seen and what not in self.run.open:
            self.run.open[what] = (_which(about), at)
            if what == "block":
                self.run.open["samples"] = (about.get("epoch_count", 1), _number(about.get("samples_count")) or 0.0)
            if what != "eval":
                self.run.validation = 0.0

    def _stop(self, what: str, about: dict[str, Any], at: float) -> None:
        run = self.run
        if what not in run.open:
            return
        which, begun = run.open.pop(what)
        if which is not None:
            run.seen.append((what, str(which)))
        took = at - begun
        if what == "eval":
            run.evals[0] += 1
            run.evals[1] += took
            run.validation += took
        elif what == "epoch":
            run.epochs.add(1.0, took - run.validation)
        else:
            count, before = run.open.pop("samples")
            after, epochs = _number(about.get("samples_count")), _number(count) or 1.0
            if after is not None and after > before:
                run.blocks.add(after - before, took - run.validation)
            elif samples := self._samples():
                run.blocks.add(epochs * samples, took - run.validation)

    def _samples(self) -> float | None:
        run = self.run
        return _number(run.values.get("train_samples")) or _number(run.arguments.get("num_examples"))

    def _end(self) -> None:
        run, samples = self.run, self._samples()
        self.run = _Run()
        rule = "all but the first tenth of the {}, and at least one of several"
        figure, total, epoch_s, steady = "", None, None, None
        if run.epochs:
            cold = run.epochs.steady()
            epoch_s = 1 / cold.rate if cold else None
        if run.summary:
            figure, total = "training_sequences_per_second", run.summary
            steady = run.stats.steady()
        elif run.stats:
            figure, steady = "throughput of tracked_stats", run.stats.steady()
        elif run.throughputs:
            figure, steady = "throughput", run.throughputs.steady()
        elif run.epochs and samples:
            steady = run.epochs.steady(rule=rule.format("epochs"))
            figure, total = "train_samples over the time of epochs", samples / epoch_s if epoch_s else None
        elif run.blocks:
            figure, steady = "samples over the time of blocks", run.blocks.steady(rule=rule.format("blocks"))
        if not figure and run.began is None and epoch_s is None:
            return
        if total is not None and not run.summary:  # of epochs, converted to samples
            steady = scaled(steady, samples)
        elif total is None and steady is not None:
            total = steady.rate
        took = run.ended - run.began if run.ended is not None and run.began is not None else None
        success = run.status == "success" and took is not None
        gpus, nodes, model = self._machine(run)
        benchmark = str(run.values.get("submission_benchmark", ""))
        self.add_run(
            run.line,
            figure or "none",
            total=total,
            gpus=gpus,
            nodes=nodes,
            local_batch=_whole(run.arguments.get("batch_size")) if set(run.workers.values()) == {1} else None,
            global_batch=_whole(run.values.get("global_batch_size")),
            sd=steady.sd if steady else None,
            steady=steady,
            unit="images" if benchmark in _IMAGES else "sequences" if benchmark in _SEQUENCES else "samples",
            device="gpu" if model or run.workers else "",
            gpu_model=model,
            model=benchmark,
            precision=run.arguments.get("dtype", ""),
            epoch_s=epoch_s,
            time_to_train_s=took if success else None,
            time_to_train_kind="measured_to_target" if success else "",
            eval_s=run.evals[1] / run.evals[0] if run.evals[0] else None,
            score=run.accuracy,
            score_name="accuracy" if run.accuracy is not None else "",
            why="the log has neither a throughput in tracked_stats nor train_samples and the times of epochs",
        )

    def _machine(self, run: _Run) -> tuple[int | None, int | None, str]:
        """(GPUs, nodes, the GPUs' model), None or empty if the log does not say."""
        entry = str(run.values.get("submission_entry", ""))
        entries = {
            name: _whole(match[1]) if (match := re.search(rf"{name}\W+(\d+)", entry)) else None
            for name in ("num_accelerators", "num_nodes")
        }
        nodes, each = entries["num_nodes"], entries["num_accelerators"]
        model = re.search(r"accelerator\W+([A-Za-z][\w. -]*)", entry)
        gpus = sum(run.workers.values()) or None
        whole, local = _whole(run.values.get("global_batch_size")), _whole(run.arguments.get("batch_size"))
        if gpus and whole and local and set(run.workers.values()) == {1} and whole != gpus * local:
            # Arguments of some ranks are missing, or batches are accumulated. The batches do not show which.
            gpus = None if len(run.workers) == 1 else gpus
        if gpus is None and each and nodes:
            gpus = each * nodes
        if gpus is None and self.context.gpus:
            gpus, nodes = self.context.gpus, self.context.nodes
        if nodes is None and gpus:
            platform = re.match(r"(\d+)x", str(run.values.get("submission_platform", "")))
            count = int(platform[1]) if platform else 0
            nodes = count if count and gpus % count == 0 else None
        return gpus, nodes, model[1].strip() if model else ""

    def close(self) -> None:
        if self.run.line:
            self._end()


def _which(about: dict[str, Any]) -> object:
    return next((about[name] for name in ("epoch_num", "first_epoch_num", "samples_count") if name in about), None)


def _number(value: object) -> float | None:
    """A finite number, also of a string, which some logs write; else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 1 and number == int(number) else None
