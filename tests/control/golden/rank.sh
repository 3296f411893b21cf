#!/bin/bash
# Written by hpcjobs. rank.sh COMMAND... stands around each process that a launcher starts: it says the process's rank in
# everybody's words, runs the command, and leaves a record of its end in the attempt folder, because a launcher's own
# exit code is seldom that of the rank that failed. HPCJOBS_START is `rank` (one process a GPU), `node` (one a node, and
# torchrun starts the ranks) or `python` (torchrun starts a rank through PYTHON_EXEC). The end of this script is that of
# its command: the same exit code, or death by the same signal.
#
# The job script stops a run by SIGUSR1 to its launcher, because launchers pass that on and nothing else alike: after SIGTERM
# mpirun kills its processes within seconds. If HPCJOBS_STOP_SIGNAL is another signal, this script turns SIGUSR1 into it.

set -u
kind="$HPCJOBS_START"
signals=(TERM INT HUP QUIT USR1 USR2 CONT)
stop="${HPCJOBS_STOP_SIGNAL:-}"
if [[ " ${signals[*]} " != *" ${stop:-TERM} "* ]]; then signals+=("$stop"); fi
# Here and after the command's end: a signal to all processes of a step would end date or mv.
trap '' "${signals[@]}"
# torchrun passes these on. It would die of any other.
case "$stop" in "" | TERM | INT | HUP | QUIT) ignored= ;; *) ignored="$stop" ;; esac

# Prints $1 as a JSON string.
json() {
    local text="${1//\\/\\\\}"
    text="${text//\"/\\\"}"
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# Writes the line $2 into file $1, whole or not at all. On failure sets `why`. A full disk may show when the file is
# opened, written, or read back. `return 0`, because in a trap a bare `return` returns the code from before the trap.
put() {
    local part="${1%/*}/.${1##*/}.part"
    why="$({
        rm -f "$part"
        (set -C && printf '%s\n' "$2" >"$part") && [ "$(cat "$part")" = "$2" ] && mv -f "$part" "$1"
    } 2>&1)" && return 0
    why="${why##*: }"
    why="${why:-the file does not read back as written}"
    rm -f "$part"
    return 1
}

# Waits until child $1 ends, and returns its exit code. A trap runs within half a second of its signal, and sets `signalled`.
# While the child runs, only sleeps are waited for: if a trap interrupts bash's `wait` just as the child ends, bash loses
# the child's code, or waits until no other child is left.
await() {
    local code naps=0 nap=0.05 rc=127
    while kill -0 "$1" 2>/dev/null; do
        # shellcheck disable=SC2034 # the job script's trap of SIGCONT reads it
        printf -v looked '%(%s)T' -1
        # A signal to all processes of the job would end the sleep, and bash would write a line about it.
        (trap '' HUP INT QUIT USR1 USR2 TERM && exec sleep "$nap")
        naps=$((naps + 1))
        if [ "$naps" -eq 40 ]; then nap=0.5; fi
    done
    while true; do
        signalled=
        wait "$1"
        code=$?
        # If a signal comes just after this wait, the next one may find no child.
        if [ "$code" -ne 127 ]; then rc="$code"; fi
        if [ -z "$signalled" ]; then return "$rc"; fi
    done
}

# Sends signal $1 to every descendant of process $2, once, but not to the one that calls this and, with $3, to none in
# process group $3. Reads /proc alone: a container may lack ps.
# shellcheck disable=SC2317 # called by a trap
signal_descendants() {
    local entry line pid grown=1
    local -A parents=() groups=() found=()
    for entry in /proc/[0-9]*; do
        # A process may end meanwhile. Its name, in parentheses, may hold anything.
        IFS= read -rd '' line 2>/dev/null <"$entry/stat" || [ -n "$line" ] || continue
        line="${line##*) }"
        line="${line#* }"
        parents[${entry#/proc/}]="${line%% *}"
        line="${line#* }"
        groups[${entry#/proc/}]="${line%% *}"
    done 2>/dev/null
    while [ -n "$grown" ]; do
        grown=
        for pid in "${!parents[@]}"; do
            if [ -n "${found[$pid]-}" ]; then continue; fi
            if [ "${parents[$pid]}" = "$2" ] || [ -n "${found[${parents[$pid]}]-}" ]; then
                found[$pid]=1
                grown=1
            fi
        done
    done
    for pid in "${!found[@]}"; do
        if [ "${groups[$pid]}" != "${3-}" ] && [ "$pid" != "$BASHPID" ]; then kill -s "$1" "$pid" 2>/dev/null; fi
    done
    return 0
}

# Starts the sampler of node $1, by the other words, in the background; sets `sampler` to its process. It is no child of
# this shell: `await` could wait for it, too. Nothing of it reaches the command or the exit code.
start_sampler() {
    local node="$1"
    shift
    sampler=
    sampler_errors="$HPCJOBS_ATTEMPT_DIR/sampler-$node.txt"
    if [ ! -x "$HPCJOBS_SAMPLER" ]; then
        echo "hpcjobs: $node is not sampled: it has no $HPCJOBS_SAMPLER"
        return
    fi
    sampler="$(
        cd / || exit
        "$@" </dev/null >/dev/null 2>"$sampler_errors" &
        printf '%s' "$!"
    )"
}

# Ends it. If it has ended by itself, tells its last error in one line. What srun says of a step that ended with its job
# is none.
end_sampler() {
    local error
    if [ -z "$sampler" ]; then return; fi
    # Its number may have been given to another process.
    if [[ "$(tr '\0' ' ' <"/proc/$sampler/cmdline")" == *" hpcjobs.nodes.sampler $HPCJOBS_ATTEMPT_DIR "* ]]; then
        rm -f "$sampler_errors"
        kill "$sampler"
    elif error="$(grep -Ev 'Terminat|Killed|Job step aborted|CANCELLED' "$sampler_errors" | tail -n 1)" && [ -n "$error" ]; then
        echo "hpcjobs: ${sampler_errors##*/}: $error"
    else
        rm -f "$sampler_errors"
    fi 2>/dev/null
}


# Prints the time in seconds since the epoch, always with six decimals.
now() {
    local time
    time="$(date +%s.%N)"
    # A date without %N prints a letter.
    if [[ ! "$time" =~ ^[0-9]+\.[0-9]{9}$ ]]; then time="$(date +%s).000000000"; fi
    printf '%s' "${time%???}"
}

# Prints element $2 (from 0) of $1, a list as Slurm writes it: 4(x2),2 is 4,4,2.
element() {
    local part times left="$2"
    for part in ${1//,/ }; do
        times=1
        if [[ "$part" =~ \(x([0-9]+)\)$ ]]; then times="${BASH_REMATCH[1]}"; fi
        if [ "$left" -lt "$times" ]; then
            printf '%s' "${part%%(*}"
            return
        fi
        left=$((left - times))
    done
    printf '%s' "$per_node"
}

# Prints the interpreter that torchrun runs on: the first word of its command line, as an executable.
interpreter() {
    local word=
    IFS= read -rd '' word <"/proc/$PPID/cmdline"
    if [[ "$word" != */* ]]; then word="$(command -v -- "$word")"; fi
    if [ ! -x "$word" ]; then word="$(readlink "/proc/$PPID/exe")"; fi
    printf '%s' "${word:-python3}"
} 2>/dev/null

# Prints the numbers of the CPUs that this process may use, such as 0-3,8; nothing where the kernel does not say.
may_use() {
    local key value
    while read -r key value; do
        if [ "$key" = Cpus_allowed_list: ]; then
            printf '%s' "$value"
            return
        fi
    done </proc/self/status
} 2>/dev/null

# Prints the address from which this node reaches the first one, or else its first address.
own_address() {
    local address
    address="$(ip -oneline route get "${MASTER_ADDR:-}" | sed -n 's/.* src \([^ ]*\).*/\1/p')"
    if [ -z "$address" ]; then read -r address _ < <(hostname -I); fi
    printf '%s' "$address"
} 2>/dev/null

# Where this process stands. mpirun's variables come before Slurm's: inside a batch script SLURM_PROCID is that of
# mpirun's own daemon. Only the last node may have fewer processes than the others.
per_node="${HPCJOBS_PROCESSES_PER_NODE:-1}"
rank=0 world=1 local_rank=0 local_world=1 node=0 nodes=1
if [ "$kind" = python ]; then
    rank="${RANK:-}" local_rank="${LOCAL_RANK:-0}"
elif [ -n "${HPCJOBS_FORK_RANK:-}" ]; then
    rank="$HPCJOBS_FORK_RANK" local_rank="$rank" world="$HPCJOBS_FORK_SIZE" local_world="$world"
elif [ -n "${OMPI_COMM_WORLD_RANK:-}" ]; then
    rank="$OMPI_COMM_WORLD_RANK" world="$OMPI_COMM_WORLD_SIZE"
    local_rank="$OMPI_COMM_WORLD_LOCAL_RANK" local_world="$OMPI_COMM_WORLD_LOCAL_SIZE"
    node=$((rank / per_node)) nodes=$(((world + per_node - 1) / per_node))
elif [ -n "${SLURM_STEP_ID:-}" ] && [ -n "${SLURM_PROCID:-}" ]; then
    rank="$SLURM_PROCID" world="${SLURM_STEP_NUM_TASKS:-${SLURM_NTASKS:-1}}"
    local_rank="$SLURM_LOCALID" node="$SLURM_NODEID" nodes="${SLURM_STEP_NUM_NODES:-${SLURM_NNODES:-1}}"
    local_world="$(element "${SLURM_STEP_TASKS_PER_NODE:-${SLURM_TASKS_PER_NODE:-}}" "$node")"
fi

# What puts the meter into the command comes before what PYTHONPATH holds, and the meter after it. torchrun's ranks have
# that from it.
if [ "$kind" != python ] && [ -n "${HPCJOBS_PYTHONPATH:-}" ]; then
    export PYTHONPATH="${HPCJOBS_INJECT:-}${PYTHONPATH:+$PYTHONPATH:}$HPCJOBS_PYTHONPATH"
fi
# A variable that the user or the profile has set stays.
host="$(uname -n)"
safe_host="${host//[!A-Za-z0-9._-]/_}"
case "$kind" in
rank)
    export RANK="${RANK-$rank}" WORLD_SIZE="${WORLD_SIZE-$world}" LOCAL_RANK="${LOCAL_RANK-$local_rank}"
    export LOCAL_WORLD_SIZE="${LOCAL_WORLD_SIZE-$local_world}" NODE_RANK="${NODE_RANK-$node}"
    if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
        # Lightning reads these. Under mpirun they are wrong, and in a step smaller than its job some are the job's.
        export SLURM_PROCID="$rank" SLURM_LOCALID="$local_rank" SLURM_NODEID="$node" SLURM_NTASKS="$world"
        export SLURM_NTASKS_PER_NODE="$local_world" SLURM_NNODES="$nodes"
    fi
    ;;
node)
    export NODE_RANK="${NODE_RANK-$node}"
    # torchrun's rendezvous by c10d looks up the node's own name, to know who holds the store and how others reach this
    # node. Where the name does not resolve, it would fail. It takes from PET_* what its command line leaves out.
    if ! getent ahosts "$host" >/dev/null 2>&1; then
        export PET_RDZV_CONF="${PET_RDZV_CONF-is_host=$((node == 0))}"
        address="$(own_address)"
        if [ -n "$address" ]; then export PET_LOCAL_ADDR="${PET_LOCAL_ADDR-$address}"; fi
    fi
    # torchrun copies into it what the rank that failed first wrote about its end.
    export TORCHELASTIC_ERROR_FILE="${TORCHELASTIC_ERROR_FILE-$HPCJOBS_ATTEMPT_DIR/torch-error-$safe_host.json}"
    # torch.distributed.run starts its ranks by this executable in place of its own interpreter.
    if [ -z "${PYTHON_EXEC-}" ] && [ -x "$HPCJOBS_RANK_WRAPPER" ]; then
        export PYTHON_EXEC="$HPCJOBS_RANK_WRAPPER" HPCJOBS_START=python
    fi
    ;;
python)
    # What this rank starts itself is no rank of ours.
    unset PYTHON_EXEC
    python="$(interpreter)"
    if [ -n "$ignored" ]; then
        # A shell cannot end the ignoring of a signal that was ignored at its start; Python can.
        reset='import os, signal, sys; signal.signal(getattr(signal, "SIG" + sys.argv[1]), signal.SIG_DFL); os.execv(sys.argv[2], sys.argv[2:])'
        set -- "$python" -I -S -c "$reset" "$ignored" "$python" "$@"
    else
        set -- "$python" "$@"
    fi
    ;;
esac
# NCCL logs once how it connects a rank, when it makes a communicator. INIT and GRAPH log no single collective.
if [ "$kind" != node ] && [ "$rank" = 0 ] && [ -z "${NCCL_DEBUG+set}" ]; then
    # In a file's name %h and %p stand for host and process.
    export NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,GRAPH NCCL_DEBUG_FILE="${HPCJOBS_ATTEMPT_DIR//%/%%}/nccl-r000.txt"
fi
# Nobody but torchrun tells a rank to Python: what another program starts through PYTHON_EXEC leaves no record.
path=
if [ "$kind" = node ]; then
    path="$HPCJOBS_ATTEMPT_DIR/node-process-$safe_host.json"
elif [[ "$rank" =~ ^[0-9]+$ ]]; then
    path="$HPCJOBS_ATTEMPT_DIR/$(printf 'rank-r%03d.json' "$((10#$rank))")"
fi
# torchrun may start its ranks again: then only the last start counts.
if [ -n "$path" ]; then rm -f "$path" 2>/dev/null; fi

# Becomes the command, in a subshell. Signals have their default effect, but for those ignored when this script started.
become() {
    unset HPCJOBS_SAMPLER
    trap - "${signals[@]}"
    if [ "$kind" = node ] && [ -n "$ignored" ]; then trap '' "$ignored"; fi
    if [ -n "$turns" ]; then trap '' USR1; fi
    exec -- "$@"
}

# Whether this script turns SIGUSR1 into another signal, for all processes below it.
turns=
if [ "$kind" != python ] && [ -n "$stop" ] && [ "$stop" != USR1 ]; then turns=1; fi
sampler=
if [ -n "${HPCJOBS_SAMPLER-}" ] && [ "$kind" != python ] && [ "$local_rank" = 0 ]; then
    start_sampler "$safe_host" "$HPCJOBS_SAMPLER" -E -m hpcjobs.nodes.sampler "$HPCJOBS_ATTEMPT_DIR" $$
fi
start="$(now)"
if [ -n "$turns" ] || { [ "$kind" = node ] && [ -n "${HPCJOBS_FORWARD:-}" ] && [ -n "$stop" ]; }; then
    # mpirun signals its child's process group alone, and torchrun's ranks have groups of their own. Bash runs a trap only
    # between two commands: so this one runs in the background.
    group=
    if [ -z "$turns" ]; then read -r _ _ _ _ group _ <"/proc/$$/stat"; fi
    trap 'signalled=1' "${signals[@]}"
    # shellcheck disable=SC2064 # expands now
    trap "signalled=1; signal_descendants $stop $$ $group" USR1
    become "$@" <&0 &
    pid=$!
    await "$pid"
else
    trap : "${signals[@]}"
    exec {out}>&1
    # Tells its pid, then leaves the pipe.
    pid="$(
        printf '%s' "$BASHPID"
        become "$@" >&"$out" {out}>&-
    )"
fi
rc=$?
trap '' "${signals[@]}"
end_sampler
signal=0
if [ "$rc" -gt 128 ] && [ "$rc" -le 192 ]; then signal=$((rc - 128)); fi
if [ -n "$path" ]; then
    put "$path" "{\"rank\": $((10#$rank)), \"local_rank\": $((10#$local_rank)), \"host\": $(json "$host"), \"pid\": ${pid:-0}, \"cpus\": \"$(may_use)\", \"rc\": $rc, \"signal\": $signal, \"start\": $start, \"end\": $(now)}"
fi
if [ "$signal" -ne 0 ]; then
    # So that launchers name the signal in their messages. A core of this shell would hide the command's own.
    ulimit -c 0
    trap - "$signal"
    kill -s "$signal" $$
fi
exit "$rc"
