"""The file of the fabric probe as a finding."""

from __future__ import annotations

import shlex
from pathlib import Path

from hpcjobs.base.contract import OK, WARNING, Finding
from hpcjobs.base.files import shown


def fabric_finding(about: dict[str, object], path: Path) -> Finding:
    """The probe's figures in a line; a warning if a node or a link is slow. `about` is the content of `path`."""
    words = []
    for where, name in (("inside", "inside a node"), ("across", "between nodes")):
        latency, rate = about.get(f"{where}_latency_s"), about.get(f"{where}_bytes_per_s")
        if isinstance(latency, float) and isinstance(rate, float):
            words.append(f"{name} {latency * 1e6:.3g} us, {rate / 1e9:.3g} GB/s")
    together = about.get("together")
    if isinstance(together, dict) and (horovod := together.get("horovod")):
        words.append(
            f"all ranks by {horovod['operations']} {horovod['busbw_bytes_per_s'] / 1e9:.3g} GB/s (bus bandwidth)"
        )
    message = f"{'; '.join(words)} ({shlex.quote(shown(path))})"
    slow = about.get("slow")
    if not isinstance(slow, list) or not slow:
        return Finding("fabric", OK, message)
    slowest = [
        f"node {each['node']} ({each['way']})" if "node" in each else f"link {' to '.join(each['link'])}"
        for each in slow
    ]
    rates = [f"{name}: {each['bytes_per_s'] / 1e9:.3g} GB/s" for name, each in zip(slowest, slow, strict=True)]
    return Finding(
        "fabric", WARNING, f"slow: {', '.join(rates)}; {message}", "exclude such nodes (--exclude), or repair them"
    )
