"""The wordings in which lines of any log say how many GPUs, processes and nodes there are."""

from __future__ import annotations

import re

from hpcjobs.collect import parallelism
from hpcjobs.collect.wordings import Needles

_IS = r"[\"']?(?: is| are)? ?[:=(]? ?"
# A number of something else: `for data loading`, `per node`, `in the tensor group`.
_END = r"\b(?! (?:for|per|in|of)\b)"
# A number of GPUs or devices, which may be that of one node.
DEVICES = "number of GPUs"
WORLD = "world size"
# Arguments of a process that has not joined the others, or of a script that counts nodes so.
UNJOINED = re.compile(r"\bNamespace\(.*\bworld_size=1\b")
# Of all processes or GPUs of the run.
ALL = (
    (WORLD, re.compile(rf"\bworld[_ ]size{_IS}(\d+){_END}", re.I)),
    (
        DEVICES,
        re.compile(
            rf"\bnum(?:ber)?[ _]of[ _](?:gpus|devices){_IS}(\d+){_END}"
            rf"|\b(?:num (?:gpus|devices)|gpus used){_IS}(\d+){_END}"
            r"|(?<!for )\b(?:runs?|running|training|launching|launched|starting|started)\b[^.#]{0,40}? on (\d+) GPUs\b",
            re.I,
        ),
    ),
    (
        "number of processes",
        re.compile(
            rf"\bnum(?:ber)?[ _]of[ _](?:replicas|num_replicas_in_sync|ranks|processes){_IS}(\d+){_END}"
            rf"|\bnum (?:replicas|processes){_IS}(\d+){_END}|\bnum_replicas_in_sync{_IS}(\d+)\b"
            rf"|\b(?:hvd|horovod)[._ ]size(?:\(\))?{_IS}(\d+)\b",
            re.I,
        ),
    ),
    ("rank of", re.compile(rf"\brank:? \d+ (?:of|out of) (\d+){_END}|\[rank-\d+/(\d+)\]", re.I)),
    ("mpirun", re.compile(r"\b(?:mpirun|mpiexec|orterun|horovodrun)\b.*?\s-{1,2}(?:np|n)[ =](\d+)\b")),
    ("srun", re.compile(r"\bsrun\b.*?\s(?:--ntasks[= ]|-n ?)(\d+)\b")),
)  # fmt: skip
# Groups of ranks, which are a part of all: removed before a line is read.
PARTS = re.compile(
    r"\b(?:local|node|group|[dtpesc]p|model|pipeline|pipe|tensor|data|expert|context|sequence|parallel|shard|replica)"
    r"[ _-](?:parallel[ _-])?(?:world[ _-]?size|rank)\b\W{0,3}\d+(?: (?:of|out of) \d+)?",
    re.I,
)
# Comments, help and prose, which are of no run.
TOLD = re.compile(
    r"(?:^|[>\]]:? ?)\s*(?:#|//)|\busage:|\be\.g\.|\b(?:for )?example:|\(default|\bpre-?trained\b|\bdefaults? "
    r"|^\s*-{1,2}[\w-]+(?:[= ]\S+)?\s+[A-Za-z]{2,} [a-z]+ ",
    re.I,
)
NP = re.compile(r"(?:^|\s)-(?:np|n) (\d+)\b")
# What scripts say that train on CPUs.
CPU = re.compile(r"\bdevice[\"']?[:=] ?[\"']?cpu\b|\b[Uu]sing (?:CPU|cpu)(?: only)?\s*$|\busing CPU, this will be slow")
GPU = re.compile(r"\bdevice[\"']?[:=] ?[\"']?cuda\b")
# Of one node, or of one process, in the arguments of a script.
LIST = re.compile(r"\b(?:gpus|gpu_ids|device_ids)[\"']?[=:] ?[\"'\[]?(\d+(?:, ?\d+)+)\b")
COUNT = re.compile(r"(?:\b(?:num_gpus|ngpus|gpu_num|n?gpus_per_node)[\"']?[=:] ?|--num[_-]gpus )(\d+)\b")
EACH = re.compile(r"--nproc[_-]per[_-]node[= ](\d+)\b")
# MLPerf's launchers tell the system as one object: the nodes of the job, and the accelerators of each.
SYSTEM = re.compile(r":::SYSJSON \{.*\"number_of_nodes\": ?\"?(\d+)\b.*\"accelerators_per_node\": ?\"?(\d+)\b")
# Beside sockets, GPUs are those of one node, and nodes are NUMA nodes: MLPerf's launchers print them.
# Nodes beside edges are a graph's.
EDGES = re.compile(r"\b(?:number of|num[_ ]|n_)[ ]?edges\b|\bedge_index\b", re.I)
SOCKETS = re.compile(r"\b(?:num_sockets|cores_per_socket)\b")
TASKS = re.compile(r"--ntasks-per-node[= ](\d+)\b|-npernode (\d+)\b|--map-by ppr:(\d+):node\b")
NNODES = re.compile(r"--nnodes[= ](\d+)\b(?!:)")
NODES = re.compile(r"\bsrun\b.*?\s(?:-N ?|--nodes[= ])(\d+)\b")
SAID_NODES = re.compile(
    rf"\b(?:num_nodes|nnodes|num_machines)[\"']?[=:] ?(\d+)\b(?!:)|--num[_-](?:nodes|machines) (\d+)\b"
    rf"|\bnumber of nodes{_IS}(\d+)\b",
    re.I,
)
# Tags of torchrun ([rank0]:, [default0]:) are of the ranks of one node, and PyTorch prints them before errors alone.
TAG = re.compile(rb"\n(?:\[\d+,(\d+)\]<std|\[(\d+)\]<std)")
STAMPED = re.compile(rb"\d{4}\[\d+,(\d+)\]<std")
# srun --label writes them before each line; a list of classes or of epochs has them, too. So they count where srun is
# seen to write them, or nearly every line has one.
LABEL = re.compile(r"\bsrun\b.*?\s(?:-l|--label)\b")
BARE = re.compile(rb"\n\s*(\d+): ")
LABELLED = 0.8
# Lines that may say something have one of these.
NEEDLES = Needles(
    (
        *(b"orld_size", b"ORLD_SIZE", b"orld size", b"um_gpus", b"gpus=", b"gpus'", b'gpus"', b"ngpus", b"nproc"),
        *(b"mpirun", b"mpiexec", b"srun ", b"horovodrun", b"ppr:", b" GPUs", b"umber of ", b"um_", b"Num GPUs"),
        *(b"size()", b"ank ", b"[rank-", b":::SYSJSON", b"npernode", b" -np ", b"nnodes", b"num-gpus", b"um-nodes"),
        *(b"gpu_num", b"gpus_per_node", b"Num processes", b"GPUs used"),
        *(b"evice: c", b"evice=c", b"evice='c", b"sing CPU", b"sing cpu", parallelism.NEEDLE),
    )
)
# Lines that may begin with a rank's tag.
TAGS = Needles((b"]<std",), b": ")
# What a line says something with.
SPEAK = (
    *(pattern for _, pattern in ALL),
    *(
        NP,
        LIST,
        COUNT,
        EACH,
        TASKS,
        NODES,
        SAID_NODES,
        LABEL,
        SYSTEM,
        EDGES,
        CPU,
        GPU,
        parallelism.SIZE,
        re.compile("--nnodes|mpirun|mpiexec|horovodrun"),
    ),
)
