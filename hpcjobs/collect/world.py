"""How many GPUs a run has, by what its log says of them in any format: the one source for all readers.

    Namespace(..., num_gpus=8, ...)   gpus='0,1,2,3'   world_size=16   WORLD_SIZE 8   I am rank 4 of 8
    mpirun -np 192 ...   horovodrun -np 8 ...   srun --ntasks=16 ...   torchrun --nproc_per_node=8 --nnodes=2
    device='cpu'   Using CPU                    ranks then count, and none of them has a GPU
    [1,0]<stdout>: ... [1,7]<stdout>:          the tags of a launcher, if no rank appears late or only once

A process drives one GPU, unless the log says the number of GPUs too. Statements that cannot all hold give no number,
and both lines are named. What merely happens to be in a log, such as how many ranks print their arguments, is no
number of GPUs.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from hpcjobs.collect.gpu_lines import (
    ALL,
    BARE,
    COUNT,
    CPU,
    DEVICES,
    EACH,
    EDGES,
    GPU,
    LABEL,
    LABELLED,
    LIST,
    NEEDLES,
    NNODES,
    NODES,
    NP,
    PARTS,
    SAID_NODES,
    SOCKETS,
    SPEAK,
    STAMPED,
    SYSTEM,
    TAG,
    TAGS,
    TASKS,
    TOLD,
    UNJOINED,
    WORLD,
)
from hpcjobs.collect.parallelism import Parallelism
from hpcjobs.collect.sources import SPLIT
from hpcjobs.collect.wordings import Spoken, Wordings

# What a reader knows of its run's GPUs by the format's own lines.
OWN = "the run's own lines"
_OF_A_NODE = ("--nproc_per_node", "tasks per node", "GPUs per node")
_LAUNCHERS = ("mpirun", "srun", "--nnodes", "nodes", *_OF_A_NODE)
# Lines are longer only where a program prints data; launch lines with many options are shorter.
_LONGEST = 40_000
_MOST_TAGS = 200_000


class Statement(NamedTuple):
    """A number that a log says: of `all` GPUs or processes, of `each` node or process, or of `nodes`."""

    of: str
    name: str
    value: int
    line: int
    words: str


class Gpus(NamedTuple):
    """The number of GPUs and of nodes, None if not known, or what contradicts it; and the line that says so, or 0.

    `values` are the two numbers that contradict each other, if there are two.
    """

    gpus: int | None = None
    nodes: int | None = None
    contradiction: str = ""
    line: int = 0
    values: tuple[int, ...] = ()


class Known(NamedTuple):
    """What is known of a run from outside its log; None: not known. `source` says where the GPUs come from.

    A plan has no source: whoever has it compares it with what the log says.
    """

    gpus: int | None = None
    nodes: int | None = None
    source: str = ""


NOTHING = Known()
OF_PATH = "the path"
OF_OPTION = "--gpus"


class World:
    """What one log says of its GPUs, nodes and processes. It is fed blocks in order, before the reader is."""

    def __init__(self) -> None:
        self._spoken = Spoken(NEEDLES)
        self.statements: list[Statement] = []
        self.tags: dict[int, list[int]] = {}  # rank: number of its lines, place of the first among the tagged
        self.bare: dict[int, list[int]] = {}  # the same of srun's labels
        self.tagged = 0
        self.tagging = False  # whether a line begins as one with a tag
        self.lines = 0
        self.labels = False  # whether srun is told to write labels
        self.apart = 0  # the last line of what another reader reads before
        self.until = math.inf  # the last line before what another reader reads
        self.alone = True  # whether all ranks' tags are of the run that is asked for
        self.since = 0.0  # the line at which the run before ended
        self.anew = 0.0  # the line at which a run ended that another followed, which says its GPUs itself or not at all
        self.launched = False  # whether launchers before that line may be of the other run, too
        self.cpu = 0  # the first line that says the training is on CPUs, -1 once one says that it is on GPUs
        self.parallelism = Parallelism()
        self.launcher = 0  # the line of the newest launcher: its options may stand on the lines after it

    def feed(self, first: int, block: bytes, wordings: Wordings | None = None) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one."""
        wordings = Wordings(block) if wordings is None else wordings
        self._spoken.look(first, block, wordings, self._look)
        self.tagging = self.tagging or bool(TAGS.having(wordings.all))
        self.lines += len(wordings.words) - 1 if SPLIT not in block else block.count(b"\n")
        if self.tagging and self.tagged < _MOST_TAGS:
            tagged = b"]<std" in block or b"\n0: " in block or b"\n 0: " in block or block.startswith((b"0: ", b" 0: "))
            if tagged or self.tags or self.bare:
                self._tag(block)

    def _look(self, number: int, raw: bytes) -> bool:
        """Read one line; returns whether one of the same words may say a number, too."""
        if len(raw) >= _LONGEST:
            return True
        text = raw.decode("utf-8", "replace")
        self.take(number, text)
        return any(pattern.search(text) for pattern in SPEAK)

    def take(self, number: int, text: str) -> None:
        """Read one line that contains a needle."""
        if TOLD.search(text):
            return
        if GPU.search(text):
            self.cpu = -1
        elif not self.cpu and CPU.search(text):
            self.cpu = number
        self.parallelism.take(number, text)
        text = PARTS.sub(" ", text)
        self.labels = self.labels or LABEL.search(text) is not None
        launches = False
        for name, pattern in ALL:
            if (match := pattern.search(text)) and not (name == WORLD and UNJOINED.search(text)):
                self._add("all", name, match, number)
                launches = launches or name in ("mpirun", "srun")
        if re.search(r"\b(?:mpirun|mpiexec|horovodrun)\b", text):
            self.launcher = number
        elif not launches and number - self.launcher <= 6 and self.launcher and (match := NP.search(text)):
            self._add("all", "mpirun", match, number)  # an option on a continued line of the launcher's
        if match := LIST.search(text):
            count = len(re.findall(r"\d+", match[1]))
            self.statements.append(Statement("each", "gpus", count, number, match[0]))
        elif match := COUNT.search(text):
            self._add("each", "GPUs per node" if SOCKETS.search(text) else "num_gpus", match, number)
        if match := EACH.search(text):
            self._add("each", "--nproc_per_node", match, number)
            if nodes := NNODES.search(text):
                self._add("nodes", "--nnodes", nodes, number)
            elif "--nnodes" not in text:  # torchrun's own default
                self.statements.append(Statement("nodes", "--nnodes", 1, number, "no --nnodes"))
        elif match := TASKS.search(text):
            self._add("each", "tasks per node", match, number)
        if match := NODES.search(text):
            self._add("nodes", "nodes", match, number)
        elif match := SYSTEM.search(text):
            said = f"{match[1]} nodes x {match[2]} accelerators"
            self.statements.append(Statement("nodes", "number of nodes", int(match[1]), number, said))
            self.statements.append(Statement("each", "GPUs per node", int(match[2]), number, said))
        elif EDGES.search(text):
            self.statements = [one for one in self.statements if one.name != "number of nodes"]
        elif (match := SAID_NODES.search(text)) and not SOCKETS.search(text):
            self._add("nodes", "number of nodes", match, number)
        elif "--nnodes" in text and not NNODES.search(text):  # 1:4, or a variable
            self.statements.append(Statement("nodes", "--nnodes", 0, number, "--nnodes"))

    def _add(self, of: str, name: str, match: re.Match[str], number: int) -> None:
        value = next((int(group) for group in match.groups() if group and len(group) < 9), 0)
        if value and (
            value > 1 or name not in ("srun", "tasks per node", "nodes")
        ):  # a step of one task is not the training
            words = " ".join(match[0].split())
            words = words if len(words) <= 40 else f"{words[:12]} ... {words[-22:]}"
            self.statements.append(Statement(of, name, value, number, words))

    def _tag(self, block: bytes) -> None:
        block = b"\n" + block
        for pattern, tags in ((TAG, self.tags), (STAMPED, self.tags), (BARE, self.bare)):
            for groups in pattern.findall(block):
                tag = next(group for group in ([groups] if isinstance(groups, bytes) else groups) if group)
                if len(tag) < 7:
                    kept = tags.setdefault(int(tag), [0, self.tagged])
                    kept[0] += 1
                    self.tagged += 1

    def begin_anew(self, after: float, launched: bool) -> None:
        """A run begins after a line, and is not the one before: what that one printed is not of this one.

        `launched`: whether the same launcher may have started both.
        """
        self.anew, self.launched = after, launched

    def resolve(
        self,
        end: float,
        own: Statement | None = None,
        alone: bool = False,
        begin: float = float("inf"),
        known: Known | None = None,
    ) -> Gpus:
        """The GPUs of the run that ends at line `end`; no number that is no multiple of those that share a model.

        `own` is what the reader knows of the run from its own lines.

        `alone` tells that the log has this run only, so that all tags of ranks are its own. `begin` is the run's first
        line: launchers after it start something else. `known` is what is known otherwise: of a run on several nodes, a
        number of GPUs may be that of one of them.
        """
        found = self._resolved(end, own, alone, begin, known)
        why, line = self.against(found.gpus, end) if found.gpus else ("", 0)
        if not why:
            return found
        told = f"{found.gpus} GPUs (line {found.line}) are no multiple of {why}"
        return Gpus(None, None, told, line, (found.gpus or 0,))

    def against(self, gpus: int, end: float) -> tuple[str, int]:
        """What of the run that ends at line `end` says that a number is no multiple of GPUs that share a model, or "".

        And its line, or 0.
        """
        return self.parallelism.against(gpus, max(self.since, self.apart), min(end, self.until))

    def _resolved(self, end: float, own: Statement | None, alone: bool, begin: float, known: Known | None) -> Gpus:
        self.alone = self.until == math.inf and (alone or (begin == math.inf and not self.since))
        said = [
            one
            for one in self.statements
            if self.apart < one.line <= min(end, self.until)
            and (one.line > self.anew or (self.launched and one.name in _LAUNCHERS))
        ]
        if own or any(one.line > self.since for one in said):
            # What an earlier run of the log printed is not of this one; its launcher may be.
            launched = any(one.line > self.since and one.name in _LAUNCHERS for one in said)
            said = [one for one in said if one.line > self.since or (one.name in _LAUNCHERS and not launched)]
        if any(one.line <= begin and one.name in _LAUNCHERS for one in said):
            said = [one for one in said if one.line <= begin or one.name not in _LAUNCHERS]
        for one in [one for one in said if one.line > begin and one.name not in _LAUNCHERS]:
            first = next((each for each in said if each.line <= begin and each[:2] == one[:2] and each.value > 1), None)
            if first and first.value != one.value and one.value > 1:
                if alone:
                    why = f"{_told(first)} and {_told(one)} are of two starts of the training"
                    return Gpus(None, None, why, one.line, (first.value, one.value))
                said.remove(one)  # It is of the next run.
        newest: dict[tuple[str, str], Statement] = {}
        most: dict[str, Statement] = {}
        for one in said:
            before = newest.get((one.of, one.name))
            if before and one.of == "all" and one.name not in _LAUNCHERS and 1 < one.value < before.value:
                # A part of all, or another start: of nodes first and then of all GPUs, numbers grow.
                return _against(before, one)
            newest[one.of, one.name] = one
            if one.name == "srun" and (one.name not in most or one.value >= most[one.name].value):
                most[one.name] = one
        if most and most["srun"].value != newest["all", "srun"].value:
            # Scripts start steps of few tasks before the training; of more, nobody knows which is the training.
            low, high = newest["all", "srun"], most["srun"]
            return Gpus(None, None, f"{_told(high)} and {_told(low)} may both be the training", low.line)
        every = [one for (of, _), one in newest.items() if of == "all"] + ([own] if own else [])
        each = [one for (of, _), one in newest.items() if of == "each"]
        told = [one for (of, _), one in newest.items() if of == "nodes"]
        nodes = max((one.value for one in told), default=None)
        if known and known.gpus and known.nodes and known.nodes > 1 and known.gpus % known.nodes == 0:
            of_node = [one for one in every if one.name == DEVICES and one.value * known.nodes == known.gpus]
            every = [one for one in every if one not in of_node]
            each, nodes = [*each, *of_node], known.nodes if of_node and nodes is None else nodes
        # A size of 1 is what a process knows before it has joined the others, or the number of nodes.
        largest = max((one.value for one in [*every, *each] if one is not own), default=1)
        every = [one for one in every if one is own or one.value > 1 or largest == 1]
        found = self._all(every, each, nodes)
        if found.gpus is None and not found.contradiction:
            found = Gpus(self._tags(), nodes)
        late = max(self.tags, default=-1)
        if found.gpus and late >= found.gpus and alone and self._tags() is not None:
            first = (every or each)[0]
            return Gpus(None, None, f"{_told(first)}, but rank {late} prints lines", first.line)
        if found.gpus:
            found = found._replace(line=next((one.line for one in (*every, *each)), 0))
        if found.gpus and nodes and (nodes > found.gpus or found.gpus % nodes):
            return found._replace(nodes=None)
        return found

    def _all(self, every: list[Statement], each: list[Statement], nodes: int | None) -> Gpus:
        launched = next((one for one in each if one.name == "--nproc_per_node"), None)
        if launched and nodes:
            return _launched(launched, nodes, [*every, *(one for one in each if one is not launched)])
        values = {one.value for one in every}
        if len(values) > 1:
            # Processes may drive several GPUs each: then the GPUs are a multiple of the launcher's processes.
            gpus = [one for one in every if one.name in (DEVICES, OWN)]
            most = max(values)
            if not (gpus and {one.value for one in gpus} == {most} and all(most % value == 0 for value in values)):
                return _against(min(every, key=_value), max(every, key=_value))
            return Gpus(most, nodes)
        if values:
            total = values.pop()
            odd = next((one for one in each if total % one.value), None)
            if odd is not None:
                return _against(every[0], odd)
            if nodes and nodes > 1 and all(one.name == DEVICES for one in every):
                return Gpus(None, None, f"{_told(every[0])} may be of one of {nodes} nodes or of all", every[0].line)
            node = next((one for one in each if one.name in _OF_A_NODE), None)
            if nodes is None and node and total % node.value == 0:
                nodes = total // node.value
            return Gpus(total, nodes)
        tags = self._tags()
        products = {
            one.value * (nodes or 1): one for one in each if nodes or (one.name not in _OF_A_NODE and nodes is None)
        }
        if tags is not None:
            if products and not any(tags % one.value == 0 for one in each):
                return Gpus()
            width = next((one.value for one in each if one.name in _OF_A_NODE and tags % one.value == 0), None)
            return Gpus(tags, nodes or (tags // width if width else None))
        if len(products) == 1:
            return Gpus(next(iter(products)), nodes)
        if products:
            return _against(min(products.values(), key=_value), max(products.values(), key=_value))
        return Gpus()

    def _tags(self) -> int | None:
        """How many ranks have tags, if they are all: from 0 on, each with two lines, none appearing late."""
        if not self.alone:  # They may be of another run.
            return None
        labelled = sum(lines for lines, _ in self.bare.values())
        tags = self.tags or (self.bare if self.labels or labelled >= LABELLED * self.lines else {})
        count = len(tags)
        if count < 2 or set(tags) != set(range(count)):
            return None
        complete = all(lines >= 2 and first * 2 < self.tagged for lines, first in tags.values())
        return count if complete else None


def _launched(node: Statement, nodes: int, others: list[Statement]) -> Gpus:
    """The GPUs that torchrun starts on all nodes. Others may say the same, those of one node, or how many nodes."""
    total = node.value * nodes
    for one in others:
        of_nodes = one.name in ("mpirun", "srun", WORLD) and one.value == nodes
        of_one = one.of == "each" or one.name == DEVICES
        if one.value != total and not of_nodes and not (of_one and one.value in (1, node.value)):
            told = f"{_told(one)} and {_told(node)} on {nodes} nodes contradict each other"
            return Gpus(None, None, told, one.line)
    return Gpus(total, nodes)


def _against(one: Statement, other: Statement) -> Gpus:
    told = f"{_told(one)} and {_told(other)} contradict each other"
    return Gpus(None, None, told, one.line, (one.value, other.value))


def _value(one: Statement) -> int:
    return one.value


def _told(one: Statement) -> str:
    return f"{one.words} (line {one.line}: {one.value})" if one.line else f"{one.words} ({one.value})"
