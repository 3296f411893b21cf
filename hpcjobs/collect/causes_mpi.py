"""What MPI prints when it does not start or fails: Open MPI, PMIx, UCX, MPICH and Intel MPI."""

from __future__ import annotations

from hpcjobs.collect.cause_lines import STEPD, lines

ROOT = (lines("run_as_root", r"(?:mpirun|orterun|mpiexec|prterun) has detected an attempt to run as root"),)

# The network gave up, and UCX aborts its process: the signal only follows.
NETWORK = (
    lines(
        "mpi_error",
        r"\.c:\d+ +(?:Transport retry count exceeded|(?:Local|Remote) [\w ]{1,40}(?:error|violation|exceeded))"
        r" on \w+:\d|\bUCX Fatal: ",
    ),
)
NOT_LAUNCHED = (
    lines(
        "launch",
        r"(?P<a>There are not enough slots available in the system to satisfy the \d+)\s+(?P<b>slots)",
        r"(?P<c>requested more processes than the ppr for)[\s\S]{0,120}?(?P<d>PPR: +\S+)",
        r"(?P<e>we found no available cpus on)[\s\S]{0,40}?(?P<f>Node: +\S+)",
        r"(?P<g>mpirun was unable to find the specified executable file)[\s\S]{0,500}?(?P<h>Executable: +[^\n]+)",
        r"was unable to complete a TCP connection\s+to another process",
        r"\bssh: (?:connect to host|Could not resolve hostname) ",
        r"was unable to (?:start|launch) the specified application",
        r"\bexecvp error on file |\bproblem with execution of \S+ +on ",  # Hydra, MPD
        r"(?P<i>tried to fork a new process via the \"execve\" system call but)\s+(?P<j>failed)",
        r"(?:ORTE|PRTE|PRRTE) was unable to reliably start one or more daemons",
        r"(?:ORTE|PRTE|PRRTE) daemon has unexpectedly failed",
        r"ORTE does not know how to route a message",
        r"unable to locate a\s+usable \"srun\" command",
        r"Host key verification failed",
        r"All nodes which are allocated for this job are already filled",
        r"There are no allocated resources for the application",
        r"binding more\s+processes than cpus on a resource",
        r"\b(?:srun|mpirun|mpiexec|horovodrun|orted|orterun|apptainer|singularity|enroot|docker): "
        r"(?:command )?not found",
    ),
)
# MPI does not start on this site as it was built. These lines say why, and what follows says only that it did not.
NOT_BUILT_FOR_IT = (
    lines(
        "mpi_error",
        r"OMPI was not built with (?:SLURM(?:'s PMI)?|ALPS) support",
        r"\bUCP worker does not support MPI_THREAD_MULTIPLE",
        r"PMI server not found",
        r"\bPMI2?_Init (?:failed|returned)",
        r"unable to reach each other for\s+MPI communications",
    ),
    lines("mpi_error", r"\bUCX +(?:ERROR|FATAL) |\bpml_ucx\.c:\d+ +Error: "),
)
# PMIx and its plugin in Slurm print such lines when any rank ends, too.
ALSO_IN_GOOD_RUNS = (
    r"\bPMII_singinit: |\b_pmi_\w+:[^\n]* returned (?:with error )?-1"
    r"|\bPMIX ERROR|\b(?:ORTE_ERROR_LOG|OPAL ERROR|PRTE ERROR): "
    rf"|{STEPD} *mpi/pm\S*: (?![^\n]*Error handler invoked)"
)
MPI = (
    lines(
        "mpi_error",
        r"No components were able to be opened in the \w+ framework",
        r"\bPML \w+ cannot be selected",
        r"PML add procs failed",
        r"(?P<it>It looks like [\w ]{1,40} failed for some reason)[\s\S]{0,900}?(?P<returned>--> [Rr]eturned [^\n]*)",
        r"It looks like [\w ]{1,40} failed for some reason",
        r"(?P<a>MPI_ABORT was invoked on rank \d+ in communicator \S+)[^\n]*\n[^\n]*(?P<b>with errorcode -?\d+)",
        r"MPI_ABORT was invoked",
        r"\bMPI_ERR_\w+",
        r"\*\*\* An error occurred in ",
        r"MPI_INIT has failed|MPI_Init(?:_thread)? failed",
        r"Fatal error in (?:internal_|P?MPI_)\w+",
        r"\bMPICH ERROR \[Rank",
        r"\bMPIR_Init_thread|\bMPIDI?_\w+\(\d+\)\.*: ",
        r"Open MPI failed (?:to (?:TCP )?|an OFI )\w+",
        r"before MPI_INIT completed",
        r"PSM[23] (?:can't open \w+ unit|was unable to open an endpoint)",
        r"A requested component was not found, or was unable to be opened",
        r"\bmca_btl_tcp_\w+\] |\bmtl_ofi\.h:\d+: |is aborting the MPI job",
        r"The OpenFabrics stack has reported a network error event",
    ),
    lines("mpi_error", ALSO_IN_GOOD_RUNS),
)
PEER_GONE = (
    lines(
        "mpi_error",
        r"(?P<a>An MPI communication peer process has unexpectedly disconnected)[\s\S]{0,800}?(?P<b>Peer host: +\S+)",
        r"peer process has unexpectedly disconnected",
    ),
)
