"""Words that a script without quotes would run, split or lose, and the script of a sweep whose profile has them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpcjobs.config import Experiment, profiles
from hpcjobs.jobs.render import script
from hpcjobs.plan.planning import make_plan, parameter_grid

NASTY = [
    *("$(touch pwned)", "`touch pwned`", "; touch pwned #", "' ; touch pwned ; '", '" ; touch pwned ; "', "a\\'b", "\\"),
    *("-n", "--help", " two words ", "%j %%", "*", "~root", "$HOME", "${x@P}", "!!", "{a,b}", "a#b", "#", "é 漢 🩻", "\u2028"),
    *("", "<(id)", "&", "|", ">f", "a=b", "$'\\n'", "'", '"', "\\\\", "end\\"),
]  # fmt: skip


def rendered(root: Path, profile: str, **changes: object) -> tuple[str, str]:
    """Writes the script of a sweep of one run, and the files it needs, to `root`. Returns (group's name, run's name)."""
    cluster = msgspec.structs.replace(profiles.cluster(profile), **changes)
    group = make_plan([1], parameter_grid(profiles.read(Experiment, "chexnet"), []), cluster, 1).groups[0]
    text = script(group, cluster, "261123120000abcd", root)
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / f"{group.name}.runs").write_text(f"{group.runs[0].name}\n")
    (root / "scripts" / f"{group.name}.sbatch").write_text(text, encoding="utf-8")
    (root / "runs" / group.runs[0].name).mkdir(parents=True)
    return group.name, group.runs[0].name
