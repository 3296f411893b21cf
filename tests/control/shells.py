"""Real shells on a terminal: types a line with the tab key, and records the words that the command then gets."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# A function that writes down its words replaces the command; the completion runs the real one.
_COMPLETES = {
    "bash": "source <(env hpcjobs completion bash)",
    "zsh": """autoload -U compinit; compinit -u -D
eval "$(env hpcjobs completion zsh)"
""",
    "fish": "env hpcjobs completion fish | source",
}
_RC = {
    "bash": """
hpcjobs() { printf '%s\\n' "$@" END >words; }
PS1='READY> '
""",
    "zsh": """
hpcjobs() { printf '%s\\n' "$@" END >words; }
PS1='READY> '
""",
    "fish": """
function hpcjobs; printf '%s\\n' $argv END >words; end
function fish_prompt; echo 'READY> '; end
""",
}
NAMES = tuple(_RC)
PATIENCE_S = 60.0


def environment(folder: Path) -> dict[str, str]:
    """The environment of a user without settings, whose home is `folder`, with hpcjobs and `folder`/bin on PATH."""
    path = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"HOME": str(folder), "ZDOTDIR": str(folder), "XDG_CONFIG_HOME": f"{folder}/.config", "TERM": "xterm"}
    return {"PATH": path, "LANG": "C.UTF-8", **own}


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Shell:
    """An interactive shell in a folder. `completes`: lines that switch completion on; by default those for one user."""

    def __init__(self, name: str, folder: Path, completes: str | None = None):
        self.folder = folder
        rc = folder / ".zshrc"
        rc.write_text((completes or _COMPLETES[name]) + _RC[name])
        command = {
            "bash": ["bash", "--noprofile", "--rcfile", str(rc), "-i"],
            "zsh": ["zsh", "--no-global-rcs", "-i"],
            "fish": ["fish", "--no-config", "--init-command", f"source {rc}", "-i"],
        }[name]
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_control_terminal,
        )
        os.close(theirs)
        self.seen = b""
        self._until(lambda: b"READY> " in self.seen, "the prompt")

    def typed(self, keys: str) -> list[str]:
        """The words that `hpcjobs` gets when these keys and Enter are pressed."""
        out = self.folder / "words"
        out.unlink(missing_ok=True)
        self.seen = b""
        os.write(self.terminal, f"{keys}\r".encode())
        self._until(lambda: out.exists() and out.read_text().endswith("END\n"), repr(keys))
        return out.read_text().splitlines()[:-1]

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            if select.select([self.terminal], [], [], 0.05)[0]:
                self.seen += os.read(self.terminal, 65536)
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self.seen.decode(errors='replace')}"

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
