"""How many GPUs a run has, by what its log says of them in any format: the one source for all readers.

    Namespace(..., num_gpus=8, ...)   gpus='0,1,2,3'   world_size=16   WORLD_SIZE 8   I am rank 4 of 8
    mpirun -np 192 ...   horovodrun -np 8 ...   srun --ntasks=16 ...   torchrun --nproc_per_node=8 --nnodes=2
    [1,0]<stdout>: ... [1,7]<stdout>:          the tags of a launcher, if no rank appears late or only once

A process drives one GPU, unless the log says the number of GPUs too. Statements that cannot all hold give no number,
and both lines are named. What merely happens to be in a log, such as how many ranks print their arguments, is no
number of GPUs.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hpcjobs.collect.lines import Numbers, spots

_IS = r"[\"']?(?: is| are)? ?[:=(]? ?"
# Of all processes or GPUs of the run.
_ALL = (
    ("world size", re.compile(rf"\bworld[_ ]size{_IS}(\d+)\b", re.I)),
    (
        "number of GPUs",
        re.compile(
            rf"\bnum(?:ber)?[ _]of[ _](?:gpus|devices|replicas|num_replicas_in_sync|ranks|processes){_IS}(\d+)\b"
            rf"|\bnum (?:gpus|devices|replicas){_IS}(\d+)\b"
            rf"|\bnum_replicas_in_sync{_IS}(\d+)\b|\b(?:hvd|horovod)[._ ]size(?:\(\))?{_IS}(\d+)\b|\bon (\d+) GPUs\b",
            re.I,
        ),
    ),
    ("rank of", re.compile(r"\brank:? \d+ (?:of|out of) (\d+)\b", re.I)),
    ("mpirun", re.compile(r"\b(?:mpirun|mpiexec|orterun|horovodrun)\b.*?\s-{1,2}(?:np|n)[ =](\d+)\b")),
    ("srun", re.compile(r"\bsrun\b.*?\s(?:--ntasks[= ]|-n ?)(\d+)\b")),
)  # fmt: skip
_NP = re.compile(r"(?:^|\s)-(?:np|n) (\d+)\b")
# Of one node, or of one process, in the arguments of a script.
_LIST = re.compile(r"\b(?:gpus|gpu_ids|device_ids)[\"']?[=:] ?[\"'\[]?(\d+(?:, ?\d+)+)\b")
_COUNT = re.compile(r"\b(?:num_gpus|ngpus|gpu_num)[\"']?[=:] ?(\d+)\b")
_EACH = re.compile(r"--nproc[_-]per[_-]node[= ](\d+)\b")
_TASKS = re.compile(r"--ntasks-per-node[= ](\d+)\b|-npernode (\d+)\b|--map-by ppr:(\d+):node\b")
_NNODES = re.compile(r"--nnodes[= ](\d+)\b(?!:)")
_NODES = re.compile(r"\bsrun\b.*?\s(?:-N ?|--nodes[= ])(\d+)\b")
_TAG = re.compile(rb"\n(?:\[\d+,(\d+)\]<std|\[(\d+)\]<std|\[rank(\d+)\]|\s*(\d+): )")
_STAMPED = re.compile(rb"\d{4}\[\d+,(\d+)\]<std")
_OF_A_NODE = ("--nproc_per_node", "tasks per node")
_LAUNCHERS = ("mpirun", "srun", *_OF_A_NODE)
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
    """The number of GPUs and of nodes, None if not known, and what contradicts it with the line where."""

    gpus: int | None = None
    nodes: int | None = None
    contradiction: str = ""
    line: int = 0


class World:
    """What one log says of its GPUs, nodes and processes. It is fed blocks in order, before the reader is."""

    needles = (
        *(b"orld_size", b"ORLD_SIZE", b"orld size", b"um_gpus", b"gpus=", b"gpus'", b'gpus"', b"ngpus", b"nproc"),
        *(b"mpirun", b"mpiexec", b"srun ", b"horovodrun", b"ppr:", b" GPUs", b"umber of ", b"um_", b"Num GPUs"),
        *(b"size()", b"ank ", b"npernode", b" -np "),
    )

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.tags: dict[int, list[int]] = {}  # rank: number of its lines, place of the first among the tagged
        self.tagged = 0
        self.apart = 0  # the last line of what another reader reads
        self.since = 0.0  # the line at which the run before ended
        self.launcher = 0  # the line of the newest launcher: its options may stand on the lines after it

    def feed(self, first: int, block: bytes) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one."""
        numbers = Numbers(block, first)
        for begin, end in spots(block, self.needles):
            if end - begin < _LONGEST:
                self.take(numbers.at(begin), block[begin:end].decode("utf-8", "replace"))
        if self.tagged < _MOST_TAGS:
            self._tag(block)

    def take(self, number: int, text: str) -> None:
        """Read one line that contains a needle."""
        launches = False
        for name, pattern in _ALL:
            if match := pattern.search(text):
                self._add("all", name, match, number)
                launches = launches or name in ("mpirun", "srun")
        if re.search(r"\b(?:mpirun|mpiexec|horovodrun)\b", text):
            self.launcher = number
        elif not launches and number - self.launcher <= 6 and self.launcher and (match := _NP.search(text)):
            self._add("all", "mpirun", match, number)  # an option on a continued line of the launcher's
        if match := _LIST.search(text):
            count = len(re.findall(r"\d+", match[1]))
            self.statements.append(Statement("each", "gpus", count, number, match[0]))
        elif match := _COUNT.search(text):
            self._add("each", "num_gpus", match, number)
        if match := _EACH.search(text):
            self._add("each", "--nproc_per_node", match, number)
            if nodes := _NNODES.search(text):
                self._add("nodes", "--nnodes", nodes, number)
            elif "--nnodes" not in text:  # torchrun's own default
                self.statements.append(Statement("nodes", "--nnodes", 1, number, "no --nnodes"))
        elif match := _TASKS.search(text):
            self._add("each", "tasks per node", match, number)
        if match := _NODES.search(text):
            self._add("nodes", "nodes", match, number)

    def _add(self, of: str, name: str, match: re.Match[str], number: int) -> None:
        value = next((int(group) for group in match.groups() if group and len(group) < 9), 0)
        if value and (
            value > 1 or name not in ("srun", "tasks per node", "nodes")
        ):  # a step of one task is not the training
            words = " ".join(match[0].split())
            words = words if len(words) <= 40 else f"{words[:12]} ... {words[-22:]}"
            self.statements.append(Statement(of, name, value, number, words))

    def _tag(self, block: bytes) -> None:
        for pattern in (_TAG, _STAMPED):
            for groups in pattern.findall(b"\n" + block):
                tag = next(group for group in ([groups] if isinstance(groups, bytes) else groups) if group)
                if len(tag) < 7:
                    kept = self.tags.setdefault(int(tag), [0, self.tagged])
                    kept[0] += 1
                    self.tagged += 1

    def resolve(self, end: float, own: Statement | None = None, alone: bool = False) -> Gpus:
        """The GPUs of the run that ends at line `end`. `own` is what the reader knows of it from its own lines.

        `alone` tells that the log has this run only, so that all tags of ranks are its own.
        """
        said = [one for one in self.statements if self.apart < one.line <= end]
        if own or any(one.line > self.since for one in said):
            # What an earlier run of the log printed is not of this one; its launcher may be.
            said = [one for one in said if one.line > self.since or one.name in _LAUNCHERS]
        newest: dict[tuple[str, str], Statement] = {}
        for one in said:
            kept = newest.get((one.of, one.name))
            # Scripts start steps of few tasks before and after the training.
            if kept is None or one.name not in ("srun", "nodes") or one.value > kept.value:
                newest[one.of, one.name] = one
        every = [one for (of, _), one in newest.items() if of == "all"] + ([own] if own else [])
        each = [one for (of, _), one in newest.items() if of == "each"]
        nodes = max((one.value for (of, _), one in newest.items() if of == "nodes"), default=None)
        # A size of 1 is what a process knows before it has joined the others.
        most = max((one.value for one in every), default=0)
        every = [one for one in every if one.value == most or one.value > 1]
        found = self._all(every, each, nodes)
        if found.gpus is None and not found.contradiction:
            found = Gpus(self._tags(), nodes)
        late = max(self.tags, default=-1)
        if found.gpus and late >= found.gpus and alone and self._tags() is not None:
            told = every[0] if every else each[0]
            return Gpus(None, None, f"{_told(told)}, but rank {late} prints lines", told.line)
        if found.gpus and nodes and (nodes > found.gpus or found.gpus % nodes):
            return found._replace(nodes=None)
        return found

    def _all(self, every: list[Statement], each: list[Statement], nodes: int | None) -> Gpus:
        values = {one.value for one in every}
        if len(values) > 1:
            # Processes may drive several GPUs each: then the GPUs are a multiple of the launcher's processes.
            gpus = [one for one in every if one.name in ("number of GPUs", OWN)]
            most = max(values)
            if not (gpus and {one.value for one in gpus} == {most} and all(most % value == 0 for value in values)):
                low, high = min(every, key=_value), max(every, key=_value)
                return Gpus(None, None, f"{_told(low)} and {_told(high)} contradict each other", low.line)
            return Gpus(most, nodes)
        if values:
            total = values.pop()
            odd = next((one for one in each if total % one.value and one.value % total), None)
            if odd is not None:
                return Gpus(None, None, f"{_told(every[0])} and {_told(odd)} contradict each other", every[0].line)
            node = next((one for one in each if one.name in _OF_A_NODE), None)
            if nodes is None and node and total % node.value == 0:
                nodes = total // node.value
            return Gpus(total, nodes)
        tags = self._tags()
        products = {one.value * (nodes or 1): one for one in each if nodes or one.name != "tasks per node"}
        if tags is not None:
            if products and not any(tags % one.value == 0 for one in each):
                return Gpus()
            width = next((one.value for one in each if one.name in _OF_A_NODE and tags % one.value == 0), None)
            return Gpus(tags, nodes or (tags // width if width else None))
        if len(products) == 1:
            return Gpus(next(iter(products)), nodes)
        if products:
            low, high = min(products.values(), key=_value), max(products.values(), key=_value)
            return Gpus(None, None, f"{_told(low)} and {_told(high)} contradict each other", low.line)
        return Gpus()

    def _tags(self) -> int | None:
        """How many ranks have tags, if they are all: from 0 on, each with two lines, none appearing late."""
        count = len(self.tags)
        if count < 2 or set(self.tags) != set(range(count)):
            return None
        complete = all(lines >= 2 and first * 2 < self.tagged for lines, first in self.tags.values())
        return count if complete else None


OWN = "the run's own lines"


def _value(one: Statement) -> int:
    return one.value


def _told(one: Statement) -> str:
    return f"{one.words} (line {one.line}: {one.value})" if one.line else f"{one.words} ({one.value})"
