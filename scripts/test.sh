#!/bin/bash
# Runs all tests, and prints the wall time of each stage at the end. Arguments go to pytest, which then runs once.
# shellcheck disable=SC2317 # `stage` calls the functions
set -uo pipefail
trap 'exit 130' INT
cd "$(dirname "$0")/.." || exit 1

stages=()
failed=0
stage() { # stage NAME COMMAND...: run the command and note its time; a failure does not stop the next stage
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" || failed=1
    stages+=("$(printf '%6d s  %s' $((SECONDS - start)) "$name")")
}

run() { # run CACHE ARGUMENT...: pytest, with its own cache folder, because two may run at the same time
    .venv/bin/python -m pytest --durations=20 -o "cache_dir=.pytest_cache/$1" "${@:2}"
}

# Two lanes side by side use both cores. Tests of the compute half run ranks that wait for each other; tests of the control
# half run one short process after another, and those on the virtual cluster mostly wait for Slurm. The lanes share no
# files. tests/e2e comes before tests/train, which initialises MPI in pytest's own process.
COMPUTE=(tests/docs tests/browser tests/e2e tests/data tests/train)
# The tests of the control half are divided by their first letters, so that both lanes take about as long.
SLURM_LANE=(tests/control/test_[a-i]*.py)
COMPUTE_LANE=(tests/control/logs_formats tests/control/test_[j-z]*.py)
compute_and_control() {
    local rc=0
    run compute "${COMPUTE[@]}" || rc=1
    run control-2 "${COMPUTE_LANE[@]}" || rc=1
    return "$rc"
}
control_and_slurm() {
    local rc=0
    run control-1 "${SLURM_LANE[@]}" || rc=1
    # Last, and in it the tests of Slurm's time limits last: by then the other lane has ended.
    if [ "$(id -u)" = 0 ]; then run slurm tests/slurm || rc=1; fi
    return "$rc"
}
side_by_side() {
    local output rc=0 other
    output="$(mktemp)"
    compute_and_control >"$output" 2>&1 &
    other=$!
    # shellcheck disable=SC2064 # the pid and the name of now
    trap "kill -INT $other 2>/dev/null; rm -f '$output'" EXIT
    control_and_slurm || rc=1
    wait "$other" || rc=1
    cat "$output"
    rm -f "$output"
    trap - EXIT
    return "$rc"
}

stage "install" scripts/setup.sh --test
if [ "$failed" = 0 ]; then
    stage "lint" scripts/lint.sh
    marks=()
    if [ "$(id -u)" != 0 ]; then
        echo "not root: the tests on a virtual Slurm cluster are LEFT OUT (run make test as root for them)"
        marks=(-m "not slurm")
    fi
    # `make test-torch` runs these, because they need PyTorch.
    if [ $# = 0 ]; then marks+=(--ignore=tests/torch); fi
    if [ $# -gt 0 ] || [ "$(nproc)" -lt 2 ]; then
        stage "pytest" run all "${marks[@]}" "$@"
    else
        stage "pytest, in two lanes" side_by_side
    fi
fi
echo "== wall time"
printf '%s\n' "${stages[@]}"
exit "$failed"
