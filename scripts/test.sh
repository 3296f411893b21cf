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

# Lanes side by side keep two cores busy: tests of the compute half run ranks that wait for each other, those of the
# control half run one short process after another, and those on the virtual clusters mostly wait for Slurm. The lanes share
# no files. tests/e2e comes before tests/train, which initialises MPI in pytest's own process.
compute() { run compute tests/e2e tests/train; }
control() { run control tests/control; }
# In it the tests of Slurm's time limits are last: by then the other lanes have ended, or nearly so.
slurm() { run slurm -m "not versions and not bad_days" tests/slurm; }
# With the newest Slurm that there is: the short set, of which the lane `slurm` says the same of this machine's own version,
# and the bad days.
newest() { .venv/bin/python tests/slurm/versions.py newest .venv/bin/python -m pytest -m "versions or bad_days" tests/slurm; }
rest() {
    local rc=0
    if [ "$(id -u)" = 0 ]; then newest || rc=1; fi
    run rest tests/data tests/browser tests/docs || rc=1
    return "$rc"
}
side_by_side() {
    local output rc=0 lane others=()
    output="$(mktemp -d)"
    for lane in "${@:2}"; do
        "$lane" >"$output/$lane" 2>&1 &
        others+=("$!")
    done
    # shellcheck disable=SC2064 # the pids and the name of now
    trap "kill -INT ${others[*]} 2>/dev/null; rm -rf '$output'" EXIT
    "$1" || rc=1
    for lane in "${others[@]}"; do wait "$lane" || rc=1; done
    for lane in "${@:2}"; do cat "$output/$lane"; done
    rm -rf "$output"
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
        lanes=(compute control rest)
        if [ "$(id -u)" = 0 ]; then lanes=(slurm "${lanes[@]}"); fi
        stage "pytest, in ${#lanes[@]} lanes" side_by_side "${lanes[@]}"
    fi
fi
echo "== wall time"
printf '%s\n' "${stages[@]}"
exit "$failed"
