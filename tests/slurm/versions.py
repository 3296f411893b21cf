#!/usr/bin/env python3
"""Another Slurm on this machine: `versions.py 24.11 COMMAND...` runs a command with it, or `newest`, or `all` in turn.

The packages of another Debian are unpacked once into a folder of their own and laid over /usr in a mount namespace, so
nothing that is installed changes. The command also has its own network, process ids and state folder: such a cluster
stands beside others, and ends with the command whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# The Debian whose packages have it.
SUITES = {"20.11": "bullseye", "22.05": "bookworm", "24.11": "trixie", "26.05": "forky"}
CACHE = Path("/var/cache/hpcjobs")
STATE_VARIABLE = "HPCJOBS_CLUSTER_STATE"  # of cluster.py
_PACKAGES = "slurmctld,slurmd,slurmdbd,slurm-client"
# Slurm's own files in them, without the libraries that it needs.
_OWN = (
    *("sbin/slurm*", "lib/*/slurm-wlm"),
    *(f"bin/s{name}" for name in ("acct", "acctmgr", "alloc", "attach", "batch", "bcast", "cancel", "control", "diag")),
    *(f"bin/s{name}" for name in ("info", "prio", "queue", "report", "run", "share", "stat", "trigger")),
)
# Runs in new namespaces: $1 are the layers of /usr (empty: as it is), $2 is the folder of plugins, $3 the version. bash
# stays, because process 1 has to wait for the daemons' orphans. /sys shows the interfaces of the namespace in which it
# was mounted, and slurmd wants the cgroups that lie below it.
_INSIDE = """
set -eu
layers=$1 plugins=$2 version=$3
shift 3
ip link set lo up
mount -t sysfs sysfs /mnt
mount --rbind /sys/fs/cgroup /mnt/fs/cgroup
mount --move /mnt /sys
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
mount -t tmpfs tmpfs /dev/shm
if [ -n "$layers" ]; then
    mount -t overlay overlay -o "lowerdir=$layers" /usr
    mount --bind "$plugins" "/usr${plugins##*/usr}"
fi
found="$(slurmd -V)"
case "$found" in
    "slurm-wlm $version."* | "slurm $version."*) ;;
    *) echo "versions.py: here is '$found', not $version" >&2; exit 2 ;;
esac
"$@"
"""


class NoSuchSlurm(Exception):
    """The reason why this version cannot be had here, as one line."""


def installed() -> str:
    """The version of this machine's own Slurm, such as 22.05. Raises NoSuchSlurm if it has none."""
    try:
        answer = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout
    except OSError:
        answer = ""
    if found := re.search(r"(\d+\.\d+)\.", answer):
        return found[1]
    raise NoSuchSlurm("this machine has no Slurm of its own, whose MariaDB and munge the others use: make setup-test")


def unpacked(version: str) -> Path:
    """The folder with that version's packages, unpacked there once. Raises NoSuchSlurm if that fails."""
    root = CACHE / f"slurm-{version}"
    if root.is_dir():
        return root
    if shutil.which("mmdebstrap") is None:
        raise NoSuchSlurm("mmdebstrap is missing: apt-get install --no-install-recommends mmdebstrap")
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirrors = subprocess.run(targets, capture_output=True, text=True, check=False).stdout.split()
    mirror = next((each for each in mirrors if each.rstrip("/").endswith("/debian")), "http://deb.debian.org/debian/")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        new = Path(folder, "new")
        # A mirror's list of Debian's testing may be some days old.
        options = ["--variant=extract", '--aptopt=Acquire::Check-Valid-Until "false"', f"--include={_PACKAGES}"]
        words = ["mmdebstrap", "--quiet", *options, SUITES[version], str(new), f"deb {mirror} {SUITES[version]} main"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoSuchSlurm(f"mmdebstrap {SUITES[version]}: {' '.join(done.stderr.split())[-400:]}")
        new.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError):  # another one was quicker
            new.rename(root)
    return root


def layers(version: str, own: str) -> tuple[str, str]:
    """(layers of /usr, folder of plugins) for a version beside this machine's `own`; both empty for `own` itself.

    A newer Slurm comes with its newer libraries, which older programs can use. An older one uses this machine's, and of
    its own only those that are missing here.
    """
    if version == own:
        return "", ""
    root = unpacked(version)
    if _number(version) > _number(own):
        return f"{root}/usr:/usr", str(next(root.glob("usr/lib/*/slurm-wlm")))
    first = CACHE / f"slurm-{version}-own"
    if not first.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            new = Path(folder, "new")
            for found in (path for pattern in _OWN for path in root.glob(f"usr/{pattern}")):
                place = new / found.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if found.is_dir() else shutil.copy2
                copy(found, place, **({"symlinks": True} if found.is_dir() else {"follow_symlinks": False}))
            for plugin in new.glob("usr/lib/*/slurm-wlm/mpi_pmix*"):
                plugin.unlink()  # built for an older libpmix, with which slurmstepd would die and srun wait for ever
            with contextlib.suppress(FileExistsError, OSError):
                new.rename(first)
    return f"{first}/usr:/usr:{root}/usr", str(next(first.glob("usr/lib/*/slurm-wlm")))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@contextlib.contextmanager
def _state(version: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"hpcjobs-slurm-{version}-") as folder:
        Path(folder).chmod(0o755)  # a job's scratch folder lies below it
        yield Path(folder, "cluster")


def run(version: str, command: Sequence[str]) -> int:
    """Run a command with that version of Slurm. Returns its exit code. Raises NoSuchSlurm."""
    if version not in SUITES:
        raise NoSuchSlurm(f"no packages of Slurm {version}; there are those of {', '.join(SUITES)}")
    if os.geteuid() != 0:
        raise NoSuchSlurm("needs root (mounts, network namespaces)")
    over, plugins = layers(version, installed())
    namespaces = ["--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with _state(version) as state:
        bound = ["setpriv", "--pdeathsig", "KILL"]  # it dies with this process, and with it all that it started
        words = [*bound, "unshare", *namespaces, "bash", "-c", _INSIDE, "versions.py", over, plugins, version, *command]
        child = subprocess.Popen(words, env={**os.environ, STATE_VARIABLE: str(state)})
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the command has the signal too, and ends in its own way


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the command's exit code, with `all` the first that is not 0; 2 for an error."""
    parser = argparse.ArgumentParser(description="Run a command with another Slurm, in namespaces of its own.")
    parser.add_argument("version", metavar="VERSION", help=f"{', '.join(SUITES)}, newest or all")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="such as bash")
    options = parser.parse_args(arguments)
    if not options.command:
        parser.error("a command is missing, such as bash")
    ends: list[tuple[str, int, float]] = []
    several = {"all": list(SUITES), "newest": [max(SUITES, key=_number)]}
    for version in several.get(options.version, [options.version]):
        start = time.monotonic()
        try:
            ends.append((version, run(version, options.command), time.monotonic() - start))
        except NoSuchSlurm as error:
            print(f"versions.py: {error}", file=sys.stderr)
            return 2
    if len(ends) > 1:
        for version, code, took in ends:
            print(f"Slurm {version}: exit code {code} after {took:.0f} s")
    return next((code for _, code, _ in ends if code), 0)


if __name__ == "__main__":
    sys.exit(main())
