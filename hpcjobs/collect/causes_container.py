"""What containers print when they do not start: Apptainer, Singularity, enroot with and without pyxis, Docker, Podman,
Shifter, Charliecloud.

pyxis prints enroot's log, then its own words, then Slurm prints those of its plugin stack: the first says why.
"""

from __future__ import annotations

from hpcjobs.collect.cause_lines import RANK, errors, go_ends_itself, lines

_PYXIS = r"\bpyxis: "
# What says only that something before it failed, what is no error, and what is cleaned up after an end.
_NO_REASON = (
    r"(?! *(?:\[(?:INFO|WARN)|printing |import(?:ing|ed) |creat(?:ing|ed) |child \d+ failed|container start failed"
    r"|couldn't (?:start container|execute enroot command|get list of existing|cleanup|remove)|if the image has an"
    r"|failed to (?:import|create|start)\b(?![^\n]*: )|\S+: line \d+: +\d+ |\d+ \w+ ?[\w ]*\()"
    r"|[^\n]*exited with return code|[^\n]*could not remove)"
)
# How enroot's parts, and the programs that they call, begin the line that says why.
_SAYS_WHY = (
    r"(?:nvidia-container-cli: (?!warn)|enroot-\w+: |\[ERROR\] |FATAL ERROR:|curl: \(\d+\)|mksquashfs|unsquashfs)"
)
_FAILS = (
    r"(?:[Ee]rror|[Ff]ail|[Cc]annot|[Cc]ould(?: not|n't)|[Dd]enied|[Nn]o such|[Nn]ot found|[Uu]nable|[Ii]nvalid"
    r"|[Uu]nbound|[Uu]nauthorized|does not exist|not permitted|too many|timed out)"
)

CONTAINERS = (
    # Apptainer pads the word to eight characters; with colours, a space is lost. Other programs write `FATAL: ` too.
    lines(
        "launch",
        rf"{RANK}FATAL: {{3}}\S",
        r"\bFATAL: +container creation failed",
        rf"{RANK}(?:FATAL|ERROR|ABORT) +\[U=\d+,P=\d+\] +\w+\(\) ",  # with --debug
        r"\bFATAL: [^\n]*(?:squashfs|rootfs|\.sif\b|singularity|apptainer|setuid|mount )",
        r"\bFATAL: kernel too old",
        rf"{RANK}ERROR  : (?![^\n]*Non-fatal)",  # Singularity 2
        rf"{RANK}ABORT  : Retval",
    ),
    lines("launch", go_ends_itself(r"github\.com/(?:sylabs|apptainer|hpcng|opencontainers|containers)/")),
    errors("launch", rf"(?:{_PYXIS} *|{RANK})nvidia-container-cli: (?!warn)"),
    errors("launch", rf"{_PYXIS}{_NO_REASON} *{_SAYS_WHY}"),
    errors("launch", rf"{_PYXIS}{_NO_REASON}[^\n]*{_FAILS}"),
    errors(
        "launch",
        rf"{RANK}enroot-\w+: ",
        r"\bdocker: Error response from daemon: ",
        r"\bstandard_init_linux\.go:\d+: |\bError: could not get runtime: ",  # runc, Podman
        r"\bOCI runtime (?:create|exec|start)?[^\n]{0,12}(?:error|failed)",
        r"\bch-run\[\d+\]: error: |/\.singularity\.d/actions/\w+: [^\n]*\bexec: ",
        # Shifter
        r"\bunclean exit from bind-mount routine|\bBIND MOUNT FAILED from|error: Failed to lookup image",
        r"\bFAILED to (?:create volume|find requested image|setup (?:image|user-requested mounts))",
        rf"{RANK}Error for command \"\w+\": ",
        rf"{RANK}Error: (?:crun|runc|short-name|initializing source|unable to copy from source|creating container)\b",
    ),
    # Its own summaries, where enroot's log says nothing.
    lines("launch", rf"{_PYXIS}(?:failed to |couldn't (?!cleanup|remove|get list))(?!start container)"),
    lines("launch", rf"{_PYXIS}(?:container start failed|child \d+ failed|couldn't start container)"),
    lines(
        "launch",
        r"error: spank: required plugin [^\n]*failed",
        r"error: Failed to invoke spank plugin stack",
        r"error: Plugin stack initialization failed",
    ),
)
