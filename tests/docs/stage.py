"""A scratch folder in which a page's commands are run word by word, in the reader's shell, with the reader's home."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.pages import ROOT, SHELL, blocks, commands

# The one name that the pages take for granted and that no test may write to.
SCRATCH = "/scratch/chestxray14"

# A page goes on as if its reader had waited: `study` is whole before the next block asks about it. Open MPI under
# Slurm's PMIx may crash in MPI_Init, once in hundreds of starts: a rank that is still in its first fence gets a message
# (https://github.com/open-mpi/ompi/issues/12495). A reader resumes such a study, once. Other failures are told.
_WAIT = """\
watched() {
    hpcjobs status "$1" --watch >>waited || { hpcjobs status "$1"; tail -n 30 "$1"/runs/*/a*/job.log; return 1; } >&2
}
crashed_in_mpi_init() {
    local log
    for log in "$1"/runs/*/a001/job.log; do
        if [ ! -e "${log%/job.log}/train.log" ] && grep -q "Signal: Segmentation fault" "$log"; then return; fi
    done
    return 1
}
for sweep in */sweep.yaml; do
    if [ -e "$sweep" ]; then
        study="${sweep%/sweep.yaml}"
        if ! watched "$study"; then
            crashed_in_mpi_init "$study"
            hpcjobs resume "$study"
            watched "$study"
        fi
    fi
done
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """The reader's working folder; home, `hpcjobs` on PATH and what stands for /scratch lie in it."""

    folder: Path
    base: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)

    def __post_init__(self) -> None:
        self.config.mkdir(parents=True)
        program = self.folder / "bin" / "hpcjobs"
        program.parent.mkdir()
        program.write_text(f'#!/bin/bash\nexec {sys.executable} -m hpcjobs "$@"\n')
        program.chmod(0o755)

    @property
    def config(self) -> Path:
        """`~/.config/hpcjobs`."""
        return self.folder / "home" / ".config" / "hpcjobs"

    @property
    def shards(self) -> Path:
        """What the pages call /scratch/chestxray14."""
        return self.folder / "scratch" / "chestxray14"

    @property
    def env(self) -> dict[str, str]:
        """The reader's: nothing but programs is this user's own."""
        home = self.folder / "home"
        own = {"HOME": str(home), "PATH": f"{self.folder / 'bin'}:{self.base['PATH']}"}
        # Fonts are looked for once.
        cache = {"XDG_CACHE_HOME": self.base.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
        # What Open MPI wants as root a page must say itself.
        base = {name: value for name, value in self.base.items() if not name.startswith("OMPI_")}
        return {**base, **own, **cache, "XDG_CONFIG_HOME": str(self.config.parent)}

    def write(self, name: str, text: str) -> None:
        """A file in the working folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def sh(self, script: str, timeout: float = 600) -> str:
        """What a script prints that must succeed."""
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def follow(self, name: str | Path, *, between: Mapping[str, str] | None = None, timeout: float = 600) -> list[str]:
        """Run all blocks of a page in one shell, then its Python; what each block of the shell printed on stdout.

        `between`: what a reader would do in the shell before the block that has this text in it.
        """
        page = ROOT / name
        shell = blocks(page, SHELL)
        before = dict.fromkeys(shell, "")
        for text, deed in (between or {}).items():
            (place,) = (block for block in shell if text in block.text)
            before[place] = deed
        record = self.folder / "page"
        script = ""
        for number, block in enumerate(shell):
            self.write(f"page/{number:02d}.sh", block.text.replace(SCRATCH, str(self.shards)))
            script += f"echo '{block.where}' >{record}/now\n{before[block]}\n"
            script += f". {record}/{number:02d}.sh >{record}/{number:02d}.out\n"
            if any(words[0] == "sweep" for words in commands(block.text)):
                script += _WAIT
        self.write("page/all.sh", script)
        try:
            self.sh(f". {record}/all.sh", timeout)
        except AssertionError as error:
            raise AssertionError(f"{(record / 'now').read_text()}{error}") from None
        for block in blocks(page, "python"):
            done = subprocess.run([sys.executable, "-c", block.text], cwd=self.folder, capture_output=True, text=True)
            assert done.returncode == 0, f"{block.where}\n{done.stderr}"
        return [(record / f"{number:02d}.out").read_text() for number in range(len(shell))]
