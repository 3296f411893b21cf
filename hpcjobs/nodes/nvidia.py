"""The GPUs of a node by `nvidia-smi -L`, and which of them CUDA shows to a process."""

from __future__ import annotations

import re
import subprocess


def list_gpus() -> str:
    """The output of `nvidia-smi -L`; empty if there is no nvidia-smi or it fails."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def named(listing: str) -> list[tuple[str, str]]:
    """(model, UUID) of each GPU in the output of `nvidia-smi -L`."""
    return re.findall(r"^GPU \d+: (.*) \(UUID: (GPU-[^)]+)\)", listing, flags=re.MULTILINE)


def visible_uuids(listing: str, cuda_visible_devices: str | None) -> list[str]:
    """UUIDs of the GPUs that CUDA shows to this process, in CUDA's order.

    `listing` is the output of `nvidia-smi -L`. CUDA_VISIBLE_DEVICES picks from it by index or by
    (the start of) a UUID, and ends at the first entry that it cannot resolve, as CUDA does.
    """
    present = [uuid for _, uuid in named(listing)]
    if cuda_visible_devices is None:
        return present
    chosen: list[str] = []
    for word in (word.strip() for word in cuda_visible_devices.split(",")):
        if word.isdigit() and int(word) < len(present):
            chosen.append(present[int(word)])
        elif word.startswith("MIG-"):
            chosen.append(word)
        elif word.startswith("GPU-") and (match := [uuid for uuid in present if uuid.startswith(word)]):
            chosen.append(match[0])
        else:
            break
    return chosen
