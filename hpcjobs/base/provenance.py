"""Where a sweep comes from: versions, git state, command, profile, user, time. Secrets are removed."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.base.version import __version__

HIDDEN = "***"

# A value is secret if one of the words of its name is in this list: WANDB_API_KEY, git.authToken, X-Amz-Signature.
# Words must match as a whole: MONKEY, keyboard, batch.passes, max_tokens and PWD are not secret. Neither is a name that
# ends with a word of _ABOUT_IT: SSH_KEY_FILE and key.size only say where the secret is, or how large.
_SECRET_WORDS = {
    *("token", "key", "apikey", "secret", "secrets", "password", "passwd", "passphrase", "pass", "sshpass"),
    *("credential", "credentials", "auth", "oauth", "authorization", "cookie", "bearer", "signature", "sig"),
}
_ABOUT_IT = {"file", "path", "dir", "name", "type", "size", "length", "count"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# scheme://user:password@. Greedy, because a password may contain an @.
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/?#:@]*)(?P<word>:[^\s/?#]*)?@", re.IGNORECASE)
# What stands before a value and names it: NAME=, NAME:, or --NAME and a blank.
_NAME = re.compile(r"(?<![\w./-])(?:(--?[A-Za-z][\w.-]*)(?:\s*[:=]\s*|[ \t]+)|([A-Za-z_][\w.-]*)\s*[:=]\s*)")
# The value, up to where a shell or a URL would end it. In a header it may follow `Bearer `. A comma belongs to the
# value, except before another NAME=, as in A=1,B=2.
_VALUE = re.compile(
    r"((?:Bearer|Basic|Token) +)?"
    r"(?:(?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\\.|[^\s&;,\"'\\]|,(?![A-Za-z_][\w.-]*=))+|[\"'].*)",
    re.IGNORECASE | re.DOTALL,
)


def provenance(command: Sequence[str], profile: Mapping[str, Any]) -> dict[str, Any]:
    """Where a sweep comes from: versions, git state of the code and the working folder, command, profile, user, time.

    Passwords, tokens and keys are replaced by `***`. They are recognized by their names, and by their place in a URL.
    """
    return {
        "hpcjobs": __version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "user": os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": redacted(list(command)),
        "cwd": os.getcwd(),
        "git": redacted(code_state()),
        "cwd_git": redacted(git_state(Path.cwd())),
        "cluster": redacted(dict(profile)),
    }


def redacted(value: Any) -> Any:
    """The same mapping, list or text, with each secret replaced by `***`."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if _secret(str(key)) and _holds(inner) else redacted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return list(_items(value))
    return _text(value) if isinstance(value, str) else value


def _holds(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


def _items(words: Sequence[Any]) -> Iterator[Any]:
    """The words of a command. The value of an option may be in the same word, as NAME=VALUE, or be the next word."""
    option = False
    for word in words:
        if not isinstance(word, str):
            yield redacted(word)
            continue
        name, sign, value = word.partition("=")
        secret = _secret(name) and re.fullmatch(r"-{0,2}[\w.-]+", name) is not None
        if secret and sign and value:
            yield f"{name}={HIDDEN}"
        else:
            yield HIDDEN if option and not word.startswith("-") else _text(word)
        option = secret and not sign and name.startswith("-")


def _text(text: str) -> str:
    def user(match: re.Match[str]) -> str:
        # ssh://git@host names an account. In other schemes a user without a password is often a token.
        if match["word"] is None and "ssh" in match["scheme"].lower():
            return match[0]
        return f"{match['scheme']}{match['user'] + ':' if match['word'] else ''}{HIDDEN}@"

    text = _USER.sub(user, text)
    parts, done, at = [], 0, 0
    while match := _NAME.search(text, at):
        at = match.end()
        if _secret(match[1] or match[2]) and (value := _VALUE.match(text, at)):
            parts += [text[done:at], value[1] or "", HIDDEN]
            done = at = value.end()
    return "".join([*parts, text[done:]])


def _secret(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT_IT:
        return False
    return not _SECRET_WORDS.isdisjoint(words) or (len(words) > 1 and words[-1] == "pwd")


# The folders of the repository that decide what a run does. A new file elsewhere does not make the code unclean.
_CODE = ("hpcjobs", "templates", "experiments")
# Variables that make git use another repository than the one around the folder. A git hook sets them, for example.
_ELSEWHERE = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
}


def code_state() -> dict[str, Any] | None:
    """`git_state` of the checkout that hpcjobs runs from. None if it is installed, even inside another checkout."""
    root = Path(__file__).resolve().parents[2]
    return git_state(root, _CODE) if (root / ".git").exists() else None


def git_state(folder: Path, parts: Sequence[str] = ()) -> dict[str, Any] | None:
    """The commit, remote and state of the checkout around `folder`. None if there is no checkout.

    `clean`: whether `parts`, or the whole checkout if there are none, have no uncommitted changes.
    """
    around = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}

    def git(*words: str) -> str:
        # git must not write locks, nor run the programs that the repository's configuration names.
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *words]
        done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        state = {"commit": git("rev-parse", "HEAD"), "clean": git("status", "--porcelain", "--", *parts) == ""}
        remotes = git("remote")
        return {**state, "remote": git("remote", "get-url", remotes.split()[0]) if remotes else None}
    except (OSError, subprocess.SubprocessError):
        return None
