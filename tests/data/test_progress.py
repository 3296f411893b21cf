"""The progress of a long command, on a terminal and in a file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hpcjobs.cli.progress import following

# Half of 1,000 images at 100 a second.
PROGRAM = """
import time
from hpcjobs.cli.progress import following

with following("preparing") as (progress, say):
    for done in range(0, 501, 20):
        progress(done, 1000)
        time.sleep(0.05)
    say("a word")
"""


def test_a_file_gets_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("hpcjobs.cli.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    with following("preparing") as (progress, say):
        # 200 images are there from an interrupted run: the pace is that of this one.
        for seconds, done in ((0, 200), (10, 400), (31, 820), (40, 1000), (61, 1420)):
            clock.now = 1000.0 + seconds
            progress(done, 12_000)
        say("a word")
    assert capsys.readouterr().err.splitlines() == [
        "preparing: 820 of 12000 images, 20 images/s, 9 min left",
        "preparing: 1420 of 12000 images, 20 images/s, 9 min left",
        "a word",
    ]


def test_a_terminal_gets_a_bar_with_images_pace_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment):
        os.close(theirs)
        shown = ""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("preparing")[-1]
    assert re.search(r"\b500/1000\b", last)
    pace, minutes, seconds = map(int, re.search(r"(\d+) images/s 0:(\d\d):(\d\d)", last).groups())
    assert 20 < pace < 400
    assert 60 * minutes + seconds == pytest.approx(500 / pace, abs=3 + 100 / pace)
    assert "a word" in shown


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 1 << 16).decode()
    except OSError:  # Nobody holds the other end any more.
        return ""
