#!/bin/bash
# Installs what is missing: Debian packages (as root), uv, and the Python packages in .venv.
# With --test, also what the tests need. A second run finds everything installed and ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."

need=()
want() { # want COMMAND PACKAGE: the package is needed if the command is missing
    command -v "$1" >/dev/null || need+=("$2")
}
install_needed() { # as root; another user is told the one command that an administrator must run
    if [ ${#need[@]} = 0 ]; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing Debian packages; an administrator must run:" >&2
        echo "    apt-get install --no-install-recommends ${need[*]}" >&2
        exit 1
    fi
    echo "installing Debian packages: ${need[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    # No package may start its daemon: the tests start their own.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
    need=()
}

want mpirun openmpi-bin
want mpicxx libopenmpi-dev
want g++ g++
want git git
want python3 python3
python3 - 2>/dev/null <<'PY' || need+=(python3-dev python3-venv)
import os, sysconfig, ensurepip
assert os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
PY
if [ "${1:-}" = --test ]; then
    want shellcheck shellcheck
    # Completion is tested in the real shells.
    want zsh zsh
    want fish fish
    # A file system that lies is one of FUSE, with the library that comes with this.
    want fusermount3 fuse3
    # The page of the report is tested in a real browser.
    want chromium chromium
    want chromedriver chromium-driver
fi
install_needed
# The virtual Slurm cluster needs root: other users do not need its packages.
if [ "${1:-}" = --test ] && [ "$(id -u)" = 0 ]; then
    for package in $(python3 tests/slurm/cluster.py packages); do
        dpkg -s "$package" >/dev/null 2>&1 || need+=("$package")
    done
    install_needed
fi

# uv: the one on PATH if it is new enough for extra-build-dependencies, else one in .tools.
uv=uv
if ! command -v uv >/dev/null || ! uv --version | awk '{split($2, v, "."); exit !(v[1] > 0 || v[2] >= 9)}'; then
    uv=.tools/bin/uv
    if [ ! -x "$uv" ]; then
        echo "installing uv in .tools" >&2
        python3 -m venv .tools
        .tools/bin/pip install --quiet 'uv>=0.9'
    fi
fi

# .venv is up to date if it was made from these files as they are now.
made_from="$(cat pyproject.toml setup.cfg scripts/setup.sh | sha256sum)"
if [ "$(cat .venv/hpcjobs-made-from 2>/dev/null)" != "$made_from" ]; then
    echo "installing Python packages in .venv (TensorFlow is large; Horovod is compiled)" >&2
    # Compile to bytecode now: sixteen ranks that each compile TensorFlow's sources at their start take twice as long.
    "$uv" sync --quiet --extra train --python '>=3.10,<3.12' --compile-bytecode
    echo "$made_from" >.venv/hpcjobs-made-from
fi
