"""What Slurm, the kernel and a GPU's driver print when a run is ended from outside, or when a node breaks.

The numbers of Xid are those of NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html).
"""

from __future__ import annotations

from hpcjobs.collect.cause_lines import STEPD, TASK_END, lines

# Those whose immediate action is to reset the GPU, to restart the node or to look at NVLink, and 94: a memory error of
# the GPU that ended one program. 63, 92, 106, 107, 121, 137, 157, 160 and 161 end nothing.
_BROKEN = r"(?:46|48|54|62|64|74|79|94|95|109|110|119|120|136|140|143|14[4-9]|15[01568]|167|169|171|172)\b"
# 144 to 150 say of each event whether it is fatal.
_XID = r"Xid \((?:PCI:)?[^)\n]*\): "
# 13, 31, 32, 43, 68 and 69 are errors of the program; 45 alone only says that a program ended.
_OF_PROGRAM = r"(?:13|31|32|43|68|69)\b"

ENDED_BY_SLURM = (
    lines("node_failure", r"DUE TO NODE FAILURE", r"srun: error: Node failure on "),
    lines("preempted", r"DUE TO (?:PREEMPTION|JOB REQUEUE)"),
    # It stands below a line with DUE TO TIME LIMIT, though the job had not reached its own.
    lines("reservation_ended", r"\*\*\* REASON: Reservation \S+, which this job was running under, has ended"),
    lines("timeout", r"DUE TO TIME LIMIT"),
    lines(
        "out_of_memory",
        r"exceeded (?:job |step |virtual )*memory limit",
        r"Exceeded (?:job|step) memory limit",
        # The words of slurmstepd for both versions of cgroups, then the kernel's.
        r"(?<!Detected 0 )\boom[-_ ]kill event",
        r"killed by the cgroup out-of-memory handler|have been OOM Killed",
        r"\boom-kill:constraint=|\binvoked oom-killer\b|\boom_kill [1-9]",
        r"Memory cgroup out of memory: Kill",
        rf"{TASK_END}Out Of Memory",
        r"Out of memory: Kill",
    ),
)
# A launch that a node did not answer. On all nodes at once, it is not the nodes: failures.py.
NO_ANSWER = (
    r"Task launch for [^\n]{0,40} failed on node \S+: "
    r"(?:Communication connection failure|Socket timed out|Unable to contact|Connection refused|No route)"
)
BROKEN_NODE = (
    lines(
        "node_failure",
        r"(?P<a>ORTE has lost communication with a remote daemon)[\s\S]{0,200}?(?P<b>Remote daemon *: \S+ on node \S+)",
        r"(?P<c>ORTE has lost communication with its daemon located on node:)\s+(?P<d>hostname: +\S+)",
        r"lost communication with (?:a remote|its) daemon",
        NO_ANSWER,
        r"uncorrectable (?:ECC|NVLink) error",
        r"CUDA_ERROR_ECC_UNCORRECTABLE",
        r"GPU has fallen off the bus|\bNVRM: [^\n]*\bfallen off the bus",
        r"\bGPU is lost\b|Unable to determine the device handle for (?:GPU|gpu)",
        r"\bRmInitAdapter failed",
        # NVSwitch needs a Fabric Manager, which does not run on this node.
        r"(?:Error 802|CUDA error): system not yet initialized|CUDA_ERROR_SYSTEM_NOT_READY",
        rf"{_XID}(?![^\n]*\bNon-?[Ff]atal\b){_BROKEN}",
        rf"{_XID}45\b[^\n]*caused by previous Xid {_BROKEN}",
        rf"{_XID}154\b[^\n]*\bto 0x[1-9a-fA-F]",  # the driver says what must be done: reset or reboot
        r"\bSXid \(PCI:[^)\n]*\): \d+, Fatal",
        r"\bNode \S+ unexpectedly rebooted|\bNodes? \S+ not responding, setting DOWN",
        r"\[Hardware Error\]: [^\n]*(?:[Uu]ncorrected|[Ff]atal)",
    ),
)
# No rank gave a reason: the driver's note on a fault of the program is all.
FAULT_OF_PROGRAM = (lines("cuda_error", rf"{_XID}{_OF_PROGRAM}"),)

# Slurm's own refusals and failures to start a step.
NOT_STARTED = (
    lines(
        "launch",
        r"srun: error: Unable to (?:confirm allocation|create step|allocate resources)",
        r"srun: error: (?:Couldn't (?:find the|load) specified plugin|cannot find mpi plugin|Invalid MPI type)",
        r"srun: error: (?:Task launch for|Application launch failed)",
        r"srun: error: tasks? [\d,-]+ launch failed: ",
        r"srun: fatal: |aborted before step completely launched",
        r"srun: error: timeout waiting for task launch",
        rf"{STEPD}(?:execve\(\)|container_[gp]_join|[^\n]{{0,60}}\b[Pp]rolog failed)",
        r"\bTaskProlog failed status",
        r"slurm_script: line \d+: [^\n]{1,200}: (?:command not found|No such file or directory|Permission denied)",
    ),
)
