"""The report's page in a real browser: on a desktop, in dark mode, on a phone, and for screen readers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from hpcjobs.analysis.compare import compare_sweeps
from hpcjobs.analysis.predict import predict
from hpcjobs.analysis.scaling import table
from hpcjobs.base.records import Reference
from hpcjobs.report.contents import Contents
from hpcjobs.report.write import write_report
from tests.control.studies import SCRIPT, auc, failing, runs, study
from tests.fixtures_browser import Browser
from tests.running import hpcjobs

PHONE = 390
SAMPLES = Path(__file__).parent.parent / "control" / "logs_formats" / "samples"


def written(folder: Path, it: Contents) -> Path:
    given = {field.name: getattr(it, field.name) for field in dataclasses.fields(it)}
    write_report(folder, given.pop("rows"), **given)
    return folder / "report.html"


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of five sizes with everything that a page can show, and a script in each log."""
    rows, others = table(runs()), table(runs((1, 2, 4)))
    it = study(
        auc=auc(runs()), models=predict(rows, [32], resamples=20),
        reference=Reference("published", {1: 200.0, 3: 500.0}, "images"),
        others=others, others_name="sweeps/old", differences=compare_sweeps(rows, others),
    )  # fmt: skip
    return written(tmp_path_factory.mktemp("five"), it)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with two params, a failed size, long words, and no logs."""
    both = [*failing(runs((1, 2, 16), params=f"a={'x' * 90}"), 16, "oom: " + "y" * 300), *runs((1, 2), params="a=2")]
    return written(tmp_path_factory.mktemp("poor"), study(both, title="z" * 120, tails={}))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of other people's logs: TensorFlow's benchmarks, NVIDIA's containers, MLPerf."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "runs.json").write_text(hpcjobs("collect", "--logs", str(SAMPLES), "--json", cwd=folder).stdout)
    hpcjobs("report", "--runs", "runs.json", "--out", "page", cwd=folder)
    return folder / "page" / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["five", "poor", "real"])
def test_axe_finds_nothing(browser: Browser, request: pytest.FixtureRequest, name: str, dark: bool) -> None:
    browser.open(request.getfixturevalue(name), dark=dark)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.violations() == []


def test_axe_would_find_something(browser: Browser, five: Path) -> None:
    browser.open(five)
    browser.run("document.documentElement.removeAttribute('lang')")
    assert [line.partition(":")[0] for line in browser.violations()] == ["html-has-lang"]


def test_it_opens_without_console_messages_and_without_the_network(browser: Browser, five: Path) -> None:
    browser.open(five)
    assert browser.console() == []
    assert browser.requests() == [five.as_uri()]
    assert browser.driver.title == "demo on mine: how far it scales"


def test_a_script_in_a_log_is_shown_and_does_not_run(browser: Browser, five: Path) -> None:
    browser.open(five)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert SCRIPT in browser.driver.find_element(By.CSS_SELECTOR, "pre").text
    assert browser.run("return document.scripts.length") == 0
    assert browser.driver.title == "demo on mine: how far it scales"


def test_the_content_security_policy_blocks_scripts(browser: Browser, five: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted.html"
    planted.write_text(five.read_text().replace("</main>", f"{SCRIPT}</main>"))
    browser.open(planted)
    assert browser.run("return document.scripts.length") == 1
    assert browser.driver.title == "demo on mine: how far it scales"
    assert any("Content Security Policy" in message for message in browser.console())


@pytest.mark.parametrize("name", ["five", "poor", "real"])
def test_nothing_is_wider_than_a_phone(browser: Browser, request: pytest.FixtureRequest, name: str) -> None:
    browser.open(request.getfixturevalue(name), width=PHONE, height=844)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run("return document.documentElement.clientWidth") == PHONE
    assert browser.run("return document.documentElement.scrollWidth") == PHONE
    # The table is wider than the screen and scrolls in its own box.
    box = "const box = document.querySelector('#scaling').parentElement; "
    assert browser.run(f"{box} return [box.clientWidth < {PHONE}, box.scrollWidth > box.clientWidth]") == [True, True]
    assert browser.run(f"{box} box.scrollLeft = 50; return box.scrollLeft") == 50


def test_flags_wrap_within_their_column(browser: Browser, tmp_path: Path) -> None:
    """The window is so narrow that the other columns leave little room."""
    flags = "same_nodes time_size_confounded fewer_repeats hardware_differs_between_sizes"
    some = runs((1, 2, 16), flags=flags, score=0.7, score_name="AUC (val)", startup_s=100.0)
    browser.open(written(tmp_path, study(some)), width=1200)
    found = browser.run(
        "const box = document.querySelector('#scaling').parentElement, end = box.getBoundingClientRect().right;"
        "const range = document.createRange();"
        "range.selectNodeContents(document.querySelector('#scaling td:last-child'));"
        "return [box.scrollWidth - box.clientWidth, end - range.getBoundingClientRect().right > 0]"
    )
    assert found == [0, True]


@pytest.mark.parametrize("name", ["five", "real"])
def test_the_numbers_are_those_of_the_csv(browser: Browser, request: pytest.FixtureRequest, name: str) -> None:
    page: Path = request.getfixturevalue(name)
    browser.open(page)
    assert browser.rows_that_equal(page.parent / "scaling-report.csv") >= 5
    assert browser.console() == []


def test_a_link_to_a_run_opens_its_log(browser: Browser, five: Path) -> None:
    browser.open(five)
    browser.driver.find_element(By.LINK_TEXT, "g0002-r01").click()
    assert browser.run("return document.querySelector('#run-4').closest('details').open")
    assert browser.run("return document.querySelectorAll('details[open]').length") == 1


def test_the_figures_have_names_and_the_colours_of_the_scheme(browser: Browser, five: Path) -> None:
    def look(dark: bool) -> tuple[list[str], list[str]]:
        browser.open(five, dark=dark)
        names = browser.run(
            "return [...document.querySelectorAll('svg[role=img]')].map(e => e.querySelector('title').textContent)"
        )
        colours = browser.run(
            "const text = document.querySelector('svg text'), back = document.querySelector('figure');"
            "return [getComputedStyle(text).fill, getComputedStyle(back).backgroundColor]"
        )
        return names, colours

    names, light = look(dark=False)
    assert names == [
        "Throughput", "Efficiency", "Time to train", "Where a step's time goes", "Area under the ROC curve, test split",
    ]  # fmt: skip
    assert light == ["rgb(27, 31, 36)", "rgb(255, 255, 255)"]
    assert look(dark=True)[1] == ["rgb(230, 235, 241)", "rgb(23, 28, 35)"]


def test_the_first_key_press_leads_to_the_answer(browser: Browser, five: Path) -> None:
    browser.open(five)
    skip = browser.driver.find_element(By.CSS_SELECTOR, "a.skip")
    assert browser.run("arguments[0].focus(); return arguments[0].getBoundingClientRect().left", skip) == 0
    skip.send_keys("\ue007")
    assert browser.run("return document.activeElement.id") == "answer"
