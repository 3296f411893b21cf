"""How NCCL connects GPUs, read from the log that it writes when it creates its communicators.

Not run by us: needs GPUs. The tests have lines of NCCL's sources and of published logs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

# `Channel 00/0 : 3[3] -> 4[0] [send] via NET/IB/0/GDRDMA`; up to 2.11 the channel's number alone, and bus ids.
_CHANNEL = re.compile(r"Channel \d+(?:/\d+)? : \d+\[\w+\] -> \d+\[\w+\](?: \[(?:send|receive)\])? via (.+)")
# Pattern 4 is the ring. The first type is the slowest path between two GPUs of a node: NVL and NVB are NVLink,
# PIX to SYS are PCIe, and LOC is a single GPU.
_RING = re.compile(r"Pattern 4, .*\btype (\w+)/\w+")
_NVLINK = {"NVL", "NVB", "C2C"}
SOCKET = "SOCKET"


@dataclasses.dataclass(frozen=True)
class Transport:
    """What NCCL logged, on one rank or merged over all ranks.

    `nccl` is its version, which NCCL logs on rank 0 only. `network` is the plugin for other nodes (`IB`, `Socket`,
    `AWS Libfabric`), which NCCL names even if no channel uses it, and `devices` are its devices. `transports` are
    those of the channels: NVLINK, PCIE, P2P (NVLINK or PCIE, not known which), SHM, IB, SOCKET or another plugin's
    name. `gpudirect`: whether all channels over the network bypass the hosts' memory; None without such channels.
    """

    nccl: str | None
    network: str | None
    devices: tuple[str, ...]
    transports: tuple[str, ...]
    gpudirect: bool | None


def parse(text: str) -> Transport:
    """Read the text of a log of NCCL 2.10 or later with the subsystems INIT and GRAPH."""
    channels = _CHANNEL.findall(text)
    net = [words for words in channels if words.startswith("NET/")]
    network = _first(r"Using network (.+?)\s*$", text)
    used = _first(rf"NET/{re.escape(network)} : Using (.+)", text) if network else None
    return Transport(
        nccl=_first(r"NCCL version (\d[\d.]*)", text),
        network=network,
        # `[0]mlx5_0:1/IB [1]mlx5_1:1/IB ; OOB ib0:10.0.0.1<0>` or `[0]eth0:10.0.0.1<0>`
        devices=tuple(dict.fromkeys(re.findall(r"\[\d+\]([^\s:]+):", used or ""))),
        transports=tuple(sorted({_name(words, _RING.findall(text)) for words in channels})),
        gpudirect=all("/GDRDMA" in words for words in net) if net else None,
    )


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, flags=re.MULTILINE)
    return found[1] if found else None


def _name(words: str, rings: list[str]) -> str:
    kind, _, rest = words.partition("/")
    if kind == "NET":
        plugin = re.split(r"/\d", rest)[0]
        return SOCKET if plugin == "Socket" else plugin
    if kind == "P2P":
        paths = {path for path in rings if path != "LOC"}
        if rest.startswith("MNNVL") or (paths and paths <= _NVLINK):
            return "NVLINK"
        return "PCIE" if paths else "P2P"
    return "SHM" if kind in ("SHM", "direct shared memory") else kind


def merge(found: Iterable[Transport | None]) -> Transport | None:
    """One Transport from those of all ranks; None if no rank has one."""
    known = [one for one in found if one]
    if not known:
        return None
    direct = [one.gpudirect for one in known if one.gpudirect is not None]
    networks = dict.fromkeys(one.network for one in known if one.network)
    return Transport(
        nccl=next((one.nccl for one in known if one.nccl), None),
        network=" ".join(networks) or None,
        devices=tuple(sorted({device for one in known for device in one.devices})),
        transports=tuple(sorted({name for one in known for name in one.transports})),
        gpudirect=all(direct) if direct else None,
    )


def described(found: Transport) -> str:
    """The same in a few words for a table: `IB with GPUDirect, NVLINK`; "" if no channel was logged."""
    direct = {True: " with GPUDirect", False: " without GPUDirect", None: ""}[found.gpudirect]
    inside = {"NVLINK", "PCIE", "P2P", "SHM"}
    return ", ".join(name if name in inside else name + direct for name in found.transports)
