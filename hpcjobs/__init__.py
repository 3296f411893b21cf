"""hpcjobs: scaling studies of distributed training on Slurm.

`hpcjobs.sweep(...)` begins a study, `hpcjobs.open(folder)` opens one; both give a `Study`. They are imported when they
are used, so that `import hpcjobs` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpcjobs.base.version import __version__

if TYPE_CHECKING:
    from hpcjobs.study import Study, open_study, sweep

    open = open_study

__all__ = ["Study", "__version__", "open", "sweep"]

_FACE = {"Study": "Study", "open": "open_study", "sweep": "sweep"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _FACE:
        from hpcjobs import study

        return getattr(study, _FACE[name])
    raise AttributeError(f"module 'hpcjobs' has no attribute '{name}'")
