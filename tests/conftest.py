"""Shared by all tests: real X-rays and shards of them, a neighbour on the CPUs, and where the time went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.fixtures_browser", "tests.fixtures_data"]

ROOT = Path(__file__).parent.parent
_SECONDS: dict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden scripts anew")
    parser.addoption("--soak", action="store_true", help="the full counts of what is otherwise run in part")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # An example may start a process; how long that takes is the affair of the machine. Examples are the same in each
    # run, but in a soak: a run that finds a new one says nothing of whether a change broke something.
    hypothesis.settings.register_profile("any machine", deadline=None, derandomize=not config.getoption("--soak"))
    hypothesis.settings.load_profile("any machine")
    # A shell starts what runs in its background with SIGINT ignored, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As the Makefile does: Open MPI refuses to start as root unless told twice.
    if os.geteuid() == 0:
        os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"


@pytest.fixture(autouse=True)
def _no_config_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A profile or default of whoever runs the tests must not change them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-config"))
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF":
            monkeypatch.delenv(name)


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the full counts are asked for."""
    return bool(request.config.getoption("--soak"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    folder = report.nodeid.partition("::")[0].rpartition("/")[0]
    _SECONDS[folder] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("wall time by folder")
    for folder, seconds in sorted(_SECONDS.items(), key=lambda entry: -entry[1]):
        terminalreporter.write_line(f"{seconds:7.1f} s  {folder}")


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Programs outside of all jobs that need both CPUs, now and then."""
    program = Path(__file__).parent / "cpu_neighbour.py"
    process = subprocess.Popen([sys.executable, str(program), "1", "--processes", "2", "--mean", "0.3"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
