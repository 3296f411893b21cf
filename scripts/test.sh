#!/bin/bash
# All tests, and at the end where the wall time went. Arguments go to pytest.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

stages=()
failed=0
stage() { # stage NAME COMMAND...: run it, note its time, go on
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@" || failed=1
    stages+=("$(printf '%6d s  %s' $((SECONDS - start)) "$name")")
}

stage "install" scripts/setup.sh --test
if [ "$failed" = 0 ]; then
    stage "lint" scripts/lint.sh
    marks=()
    if [ "$(id -u)" != 0 ]; then
        echo "not root: the tests on a virtual Slurm cluster are LEFT OUT (run make test as root for them)"
        marks=(-m "not slurm")
    fi
    stage "pytest" .venv/bin/python -m pytest "${marks[@]}" "$@"
fi
echo "== wall time"
printf '%s\n' "${stages[@]}"
exit "$failed"
