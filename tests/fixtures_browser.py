"""Debian's headless chromium as a fixture, and made-up pages for it."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FIGURES = ("gpus", "throughput", "throughput_per_gpu", "speedup", "efficiency", "step_ms")
_PROGRAMS = ("chromium", "chromedriver")


@dataclasses.dataclass(frozen=True)
class Browser:
    """One chromium for all tests; each opens its own page in it."""

    driver: webdriver.Chrome

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of that size and colour scheme, and forget what earlier pages said."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.console(), self.requests()
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def console(self) -> list[str]:
        """What the console said since the last question."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last question."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def rows_that_equal(self, table: Path) -> int:
        """How many rows the page's scaling table has; each figure in it is the one of scaling-report.csv."""
        cells = self.run(
            "return [...document.querySelectorAll('#scaling tbody tr')].map(row =>"
            " [...row.querySelectorAll('data')].map(each => [each.value, each.textContent]))"
        )
        with table.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert len(cells) == len(lines)
        for row, line in zip(cells, lines, strict=True):
            values = [value for value, _ in row]
            assert set(values) <= set(line.values())
            assert {line[name] for name in _FIGURES if line[name]} <= set(values)
            for value, shown in row:
                plain = shown.removesuffix(" %").replace(",", "")
                if re.fullmatch(r"[\d.]+", plain):  # times of training have units of their own
                    unit = 100 if shown.endswith("%") else 1
                    # A small figure, as a slow machine has it, is rounded at the last digit that is shown.
                    rounding = 0.501 / 10 ** len(plain.partition(".")[2]) / unit
                    assert float(plain) / unit == pytest.approx(float(value), rel=0.006, abs=rounding)
        return len(lines)

    def violations(self) -> list[str]:
        """What axe-core finds, as `rule: element`."""
        axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        self.run(axe)
        found = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations), e => done(String(e)))"
        )
        assert isinstance(found, list), found
        return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, or an error: a page that no browser opened is not tested."""
    paths = {name: shutil.which(name) for name in _PROGRAMS}
    missing = [name for name, path in paths.items() if path is None]
    assert not missing, f"{' '.join(missing)} not found: run `make setup-test`"
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for word in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(word)
    if os.geteuid() == 0:  # chromium's sandbox refuses root
        options.add_argument("--no-sandbox")
    driver = webdriver.Chrome(options=options, service=Service(str(paths["chromedriver"])))
    try:
        driver.set_page_load_timeout(30)
        driver.set_script_timeout(60)
        yield Browser(driver)
    finally:
        driver.quit()
