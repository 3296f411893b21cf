#!/usr/bin/env python3
"""A Slurm cluster of four C4140 nodes on one machine: `cluster.py up`, `down`, `status`, `env`, `packages`.

Real daemons, in five network namespaces with their own addresses and host names on one bridge: the head (munged,
mariadbd, slurmdbd, slurmctld) and four nodes (a slurmd, 40 configured CPUs and four `gpu:v100` that are device nodes
of /dev/null). Every process is in one of the namespaces and every file below one state folder, so `down` works after
any crash.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import Template

PACKAGES = (  # of Debian 12; the last one is for versions.py
    *("slurm-wlm", "slurmdbd", "munge", "mariadb-server", "openmpi-bin", "libopenmpi-dev", "iproute2", "mmdebstrap"),
)
PROGRAMS = (
    *("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "sinfo", "sacctmgr", "munged"),
    *("mariadbd", "mariadb-install-db", "mpirun", "ip", "unshare", "nsenter"),
)
NODES = tuple(f"c4140-{i}" for i in range(1, 5))
BRIDGE = "hpcjobs0"
SUBNET = "10.77.0"  # no route leads out of it
HEAD = "c4140-head"
ADDRESSES = {node: f"{SUBNET}.{i}" for i, node in enumerate(NODES, start=1)} | {HEAD: f"{SUBNET}.254"}
CONTROLLER_PORT = 26817
USER_ADDRESS = f"{SUBNET}.250"  # this machine's address on the bridge: users run sbatch and srun from here
GPUS_PER_NODE = 4
DEFAULT_STATE = "/tmp/hpcjobs-cluster"
STATE_VARIABLE = "HPCJOBS_CLUSTER_STATE"
MARKER = "cluster.json"  # a folder with this file was made by this program and may be deleted
TEMPLATES = Path(__file__).resolve().parent
# Daemons get all paths as arguments, never from the caller's environment.
DAEMON_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class ClusterError(Exception):
    """The reason why there is no cluster, as one line."""


@dataclasses.dataclass(frozen=True)
class VirtualCluster:
    """The cluster whose files are below `state`. One machine carries one cluster at a time."""

    state: Path

    @property
    def slurm_conf(self) -> Path:
        """The value of `SLURM_CONF` with which Slurm's commands reach this cluster."""
        return self.state / "slurm.conf"

    def env(self) -> dict[str, str]:
        """The caller's environment with this cluster's SLURM_CONF, and without the variables of an outer job."""
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        return outer | {"SLURM_CONF": str(self.slurm_conf)}

    def run(self, *argv: str | Path, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster's environment, and capture both streams.

        Raises ClusterError if it cannot start or takes more than `timeout` seconds.
        """
        return _run(argv, self.env(), timeout)

    def usable_nodes(self) -> int:
        """How many nodes Slurm shows as usable: idle, mixed, allocated or the like. 0 if it does not answer."""
        # sinfo would retry for long if nobody listens on the port.
        if not self.slurm_conf.exists() or not _listens(socket.AF_INET, (ADDRESSES[HEAD], CONTROLLER_PORT)):
            return 0
        try:
            answer = self.run("sinfo", "-h", "-N", "-p", "v100", "-o", "%N %t", timeout=10)
        except ClusterError:
            return 0
        usable = ("idle", "mix", "alloc", "comp", "plnd", "resv")
        return sum(line.split()[1] in usable for line in answer.stdout.splitlines())

    def up(self) -> bool:
        """Start everything and wait for four usable nodes. Returns False if it is up already.

        What an earlier cluster left in the same folder is cleared first. Raises ClusterError if root, packages or
        namespaces are missing, or if it does not start in time. Then nothing is left running.
        """
        _need_root()
        _need_programs()
        with _alone():
            self._refuse_strangers()
            if nodes := self.usable_nodes():
                if nodes < len(NODES):
                    raise ClusterError(f"up, but with {nodes} of {len(NODES)} nodes; first: cluster.py down")
                return False
            self._clear(keep_logs=False)
            try:
                self._start()
            except BaseException:
                self._stop()  # the logs stay and show why
                raise
            return True

    def down(self, keep_logs: bool = False) -> bool:
        """Kill every process, and delete namespaces, bridge and files. Returns False if there was nothing.

        With `keep_logs`, `state/log` stays. Raises ClusterError if `state` is not the folder of a cluster.
        """
        _need_root()
        with _alone():
            self._refuse_strangers()
            return self._clear(keep_logs)

    # Starting

    def _start(self) -> None:
        self.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.state / MARKER).write_text(json.dumps({"nodes": NODES, "subnet": f"{SUBNET}.0/24"}) + "\n")
        for name in ("log", "munge", "mariadb", "slurmctld", "spool", "tmp", "dev"):
            (self.state / name).mkdir(mode=0o755, exist_ok=True)
        self._write_configuration()
        self._make_network()
        install = self._spawn(HEAD, "mariadb-install", self._mariadb("mariadb-install-db"))
        self._spawn(HEAD, "munged", self._munged())
        self._make_devices()
        if install.wait(timeout=60):
            raise ClusterError(f"MariaDB could not be set up: see {self.state}/log/mariadb-install.log")
        self._spawn(HEAD, "mariadbd", [*self._mariadb("mariadbd"), f"--socket={self._sql_socket}", "--skip-networking"])
        wait_for("MariaDB", lambda: _listens(socket.AF_UNIX, self._sql_socket), 30)
        # libmariadb reads no configuration file here: it gets the socket's path from its variable.
        places = {"SLURM_CONF": str(self.slurm_conf), "MYSQL_UNIX_PORT": self._sql_socket}
        self._spawn(HEAD, "slurmdbd", ["slurmdbd", "-D"], **places)
        wait_for("slurmdbd", lambda: self._sacctmgr("add", "cluster", "virtual"), 45)
        self._sacctmgr("add", "account", "hpc", "Description=hpc", "Organization=hpc")
        self._sacctmgr("add", "user", "root", "Account=hpc")
        self._spawn(HEAD, "slurmctld", ["slurmctld", "-D", "-f", str(self.slurm_conf)])
        for node in NODES:
            self._spawn(node, f"slurmd-{node}", ["slurmd", "-D", "-N", node, "-f", str(self.slurm_conf)])
        wait_for("four usable nodes", lambda: self.usable_nodes() == len(NODES), 45)

    @property
    def _sql_socket(self) -> str:
        return str(self.state / "mariadb.sock")

    def _mariadb(self, program: str) -> list[str]:
        # For tests: small caches, and no waiting for the disk.
        cheap = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        more = ["--skip-test-db", "--auth-root-authentication-method=socket"] if program.endswith("install-db") else []
        return [program, "--no-defaults", "--user=root", f"--datadir={self.state}/mariadb", *cheap, *more]

    def _munged(self) -> list[str]:
        folder = self.state / "munge"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = ("socket", "pid-file", "seed-file", "log-file")
        options = [f"--{name}={folder}/{name.removesuffix('-file')}" for name in files]
        return ["munged", "--foreground", f"--key-file={key}", "--num-threads=4", *options]

    def _sacctmgr(self, *words: str) -> bool:
        return self.run("sacctmgr", "-i", *words, timeout=20).returncode == 0

    def _write_configuration(self) -> None:
        values = {
            "state": self.state,
            "head": HEAD,
            "head_address": ADDRESSES[HEAD],
            "controller_port": CONTROLLER_PORT,
            "nodes": f"c4140-[1-{len(NODES)}]",
            "addresses": f"{SUBNET}.[1-{len(NODES)}]",
        }

        def fill(name: str, node: str = "") -> str:
            return Template((TEMPLATES / f"{name}.in").read_text()).substitute(values, node=node)

        self.slurm_conf.write_text(fill("slurm.conf"))
        (self.state / "gres.conf").write_text("".join(fill("gres.conf", node) for node in NODES))
        for name, mode in (("slurmdbd.conf", 0o600), ("task_prolog", 0o755)):
            path = self.state / name
            path.touch(mode=mode)
            path.write_text(fill(name))

    def _make_network(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("link", "set", BRIDGE, "alias", str(self.state))
        _ip("addr", "add", f"{USER_ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for i, (host, address) in enumerate(ADDRESSES.items()):
            port = f"{BRIDGE}p{i}"
            _ip("netns", "add", host)
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", port, "master", BRIDGE, "up")
            _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")

    def _make_devices(self) -> None:
        for node in NODES:
            for folder in ("dev", "spool", "tmp"):
                (self.state / folder / node).mkdir()
            (self.state / "tmp" / node).chmod(0o1777)
            for i in range(GPUS_PER_NODE):
                # A device node of /dev/null: Slurm needs a file for each GPU, and nobody opens it.
                os.mknod(self.state / "dev" / node / f"nvidia{i}", 0o20666, os.makedev(1, 3))

    def _spawn(self, host: str, name: str, argv: Sequence[str], **env: str) -> subprocess.Popen[bytes]:
        """Start a process on `host`, its output in `log/NAME.log`."""
        # `ip netns exec` would remount /sys, and slurmd would then not find the cgroup mount.
        enter = ["nsenter", f"--net=/run/netns/{host}", "unshare", "--uts"]
        rename = ["sh", "-c", 'cd / && hostname "$0" && exec "$@" </dev/null', host]
        with open(self.state / "log" / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*enter, *rename, *argv], env=DAEMON_ENV | env, stdout=log, stderr=log, start_new_session=True
            )

    # Stopping

    def _refuse_strangers(self) -> None:
        """Raises ClusterError if the folder, or the names of namespaces and bridge, belong to something else."""
        names = {entry.name for entry in self.state.iterdir()} if self.state.exists() else set()
        if names - {"log"} and MARKER not in names:  # "log" alone is what `down --keep-logs` leaves
            raise ClusterError(f"{self.state} is not a cluster's state folder (no {MARKER}); choose another --state")
        alias = Path("/sys/class/net", BRIDGE, "ifalias")
        owner = alias.read_text().strip() if alias.exists() else ""
        if owner not in ("", str(self.state)):
            raise ClusterError(f"another cluster is up; first: cluster.py --state {owner} down")
        for link in json.loads(_run(["ip", "-j", "addr"], None, 10).stdout):
            addresses = [address.get("local", "") for address in link.get("addr_info", ())]
            if link["ifname"] != BRIDGE and any(address.startswith(f"{SUBNET}.") for address in addresses):
                raise ClusterError(f"interface {link['ifname']} uses {SUBNET}.0/24, which the cluster needs")

    def _clear(self, keep_logs: bool) -> bool:
        found = self._stop()
        if not self.state.exists():
            return found
        for entry in list(self.state.iterdir()):
            if keep_logs and entry.name == "log":
                continue
            found = True
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not any(self.state.iterdir()):
            self.state.rmdir()
        return found

    def _stop(self) -> bool:
        found = bool(self.processes())
        wait_for("the end of all processes", self._kill_all, 20)
        for host in ADDRESSES:
            if Path("/run/netns", host).exists():
                found = True
                _ip("netns", "delete", host)
            for left in Path("/dev/shm").glob(f"vader_segment.{host}.*"):  # left by killed ranks of Open MPI
                left.unlink(missing_ok=True)
        if Path("/sys/class/net", BRIDGE).exists():
            found = True
            for port in Path("/sys/class/net").glob(f"{BRIDGE}p*"):  # a deleted namespace removes its link only later
                _run(["ip", "link", "delete", port.name], None, 10)
            _ip("link", "delete", BRIDGE)
        return found

    def _kill_all(self) -> bool:
        """Kill all processes. Returns whether there were none: a process may start another one meanwhile."""
        pids = self.processes()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def processes(self) -> set[int]:
        """The ids of the live processes in the hosts' namespaces."""
        namespaces = {_inode(Path("/run/netns", host)) for host in ADDRESSES} - {None}
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            # A zombie has no namespace any more. Its parent has to wait for it.
            if namespaces and _inode(entry / "ns" / "net") in namespaces:
                found.add(int(entry.name))
        return found


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _run(argv: Sequence[str | Path], env: dict[str, str] | None, timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, env=env, timeout=timeout, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{argv[0]} did not answer within {timeout:g} s") from None
    except OSError as error:
        raise ClusterError(f"{argv[0]}: {error.strerror}") from None


def _ip(*words: str) -> None:
    done = _run(["ip", *words], None, 10)
    if done.returncode:
        raise ClusterError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _listens(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as client, contextlib.suppress(OSError):
        client.settimeout(1)
        client.connect(address)
        return True
    return False


def wait_for(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Poll until `ready()`. Raises ClusterError, naming `what`, after this many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:g} s for {what}, without success")
        time.sleep(0.1)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Allow one `up` or `down` at a time. The lock is an abstract socket, which no crash leaves behind."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind("\0hpcjobs-virtual-cluster")
        except OSError:
            raise ClusterError("another cluster.py is running; try again when it has ended") from None
        yield


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("needs root (network namespaces, device nodes): run it with sudo, or in a container as root")


def _need_programs() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=DAEMON_ENV["PATH"]) is None]
    if missing:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        raise ClusterError(f"missing programs: {' '.join(missing)}; on Debian 12: {install}")


COMMANDS = {
    "up": "start it; nothing to do if it is up",
    "down": "stop it and delete everything; nothing to do if it is down",
    "status": "say whether it is up (exit 0) or not (exit 1)",
    "env": "print the line with which Slurm's commands reach it",
    "packages": "print the Debian packages that it needs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 for success, 1 if `status` finds no cluster, 2 for an error."""
    parser = argparse.ArgumentParser(description="A Slurm cluster of four virtual C4140 nodes on this machine.")
    default = Path(os.environ.get(STATE_VARIABLE, DEFAULT_STATE))
    about = f"folder for everything the cluster writes (${STATE_VARIABLE}, else {DEFAULT_STATE})"
    parser.add_argument("--state", type=Path, default=default, help=about)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == "down":
            command.add_argument("--keep-logs", action="store_true", help="leave STATE/log")
    options = parser.parse_args(arguments)
    cluster = VirtualCluster(options.state.resolve())
    try:
        return _do(cluster, options)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 2


def _do(cluster: VirtualCluster, options: argparse.Namespace) -> int:
    start = time.monotonic()
    export = f"export SLURM_CONF={cluster.slurm_conf}"
    if options.command == "packages":
        print(" ".join(PACKAGES))
    elif options.command == "env":
        print(export)
    elif options.command == "up":
        news = f"up after {time.monotonic() - start:.1f} s" if cluster.up() else "already up"
        print(f"{news}: {len(NODES)} nodes in {cluster.state}; {export}")
    elif options.command == "down":
        print("down" if cluster.down(options.keep_logs) else "nothing to take down")
    else:
        nodes = cluster.usable_nodes()
        print(f"{nodes} of {len(NODES)} nodes usable; {export}" if nodes else "down")
        return 0 if nodes == len(NODES) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
