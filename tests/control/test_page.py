"""report.html as text: well-formed, escaped, without network, with the table's numbers. tests/browser opens it."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpcjobs.analysis.compare import compare_sweeps
from hpcjobs.analysis.predict import predict
from hpcjobs.analysis.scaling import table
from hpcjobs.base.records import Reference
from hpcjobs.report import figures, page
from hpcjobs.report.contents import Contents, clean
from hpcjobs.report.write import write_report
from tests.control.studies import SCRIPT, SIZES, auc, failing, runs, study
from tests.control.sweeps import run

VOID = {"meta", "link", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page: ids, links, headings, tables. All elements must be closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.words: dict[str, str] = {}
        self._table = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[name]) for name in ("href", "src", "xlink:href") if name in found]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self._table = str(found["id"])
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append(("", ""))
            assert tag == "td" or found["scope"] in ("row", "col")
        if tag == "data":
            self.tables[self._table][-1][-1] = ("", str(found["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in ("title", "h1", "main", "pre", "style"):
            if tag in self.open:
                self.words[tag] = self.words.get(tag, "") + data
        if self._table and self.open and self.open[-1] in ("td", "th", "data", "small", "a") and "table" in self.open:
            text, value = self.tables[self._table][-1][-1]
            self.tables[self._table][-1][-1] = (text + data, value)

    def column(self, name: str, of: str = "scaling") -> list[tuple[str, str]]:
        """Text and value of each cell in the column with that header."""
        header, *rows = self.tables[of]
        at = [text for text, _ in header].index(name)
        return [row[at] for row in rows]


def rendered(it: Contents) -> str:
    return page.render(it, figures.draw(it))


def whole() -> Contents:
    """Contents with everything that a page can show."""
    rows, others = table(runs()), table(runs((1, 2, 4)))
    return study(
        auc=auc(runs()), models=predict(rows, [32], resamples=20), reference=Reference("published", {1: 200.0, 3: 500.0}, "images"),
        others=others, others_name="sweeps/old", differences=compare_sweeps(rows, others),
    )  # fmt: skip


# --- the whole page ------------------------------------------------------------------------------


def test_all_sections_are_in_order_and_every_link_has_a_target() -> None:
    found = Page(rendered(whole()))
    assert found.words["h1"] == "demo on mine"
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    order = [found.ids.index(name) for name in ("answer", "figures", "tables", "all-runs", "provenance")]
    assert order == sorted(order)
    assert set(found.tables) == {"scaling", "losses", "model-0", "reference", "against", "runs"}
    assert found.tags.count("figure") == len(figures.NAMES)
    # There is one h1, and no level is skipped.
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(found.headings, found.headings[1:], strict=False))


def test_nothing_is_fetched_and_no_script_can_run() -> None:
    text = rendered(whole())
    found = Page(text)
    assert "script" not in found.tags
    assert all(link.startswith("#") or link == "data:," for link in found.links)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search(r"\son\w+=", re.sub(r">[^<]*<", "><", text))


def test_equal_contents_give_equal_pages() -> None:
    assert rendered(whole()) == rendered(whole())


def test_the_numbers_of_the_table_are_those_of_the_csv(tmp_path: Path) -> None:
    it = study(failing(runs(), 8))
    write_report(tmp_path, it.rows, title="x", runs=it.runs)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "scaling-report.csv").read_text())))
    found = Page((tmp_path / "report.html").read_text())
    columns = {
        "GPUs": "gpus", "images/s": "throughput", "per GPU": "throughput_per_gpu", "speed-up": "speedup",
        "efficiency": "efficiency", "step, ms": "step_ms", "time to train": "time_to_train_s",
    }  # fmt: skip
    for name, column in columns.items():
        assert [value for _, value in found.column(name)] == [line[column] for line in lines], name
    assert [text for text, _ in found.column("GPUs")] == [str(size) for size in SIZES]
    assert found.column("images/s")[0][0].startswith("640.0 624.1 to 655.9")
    assert found.column("images/s")[3] == ("–", "")
    assert [text for text, _ in found.column("runs")] == ["3", "3", "3", "0 of 3", "3"]
    assert [value for _, value in found.column("lost", of="losses")] == [
        line["lost_ms"] for line in lines if line["lost_ms"]
    ][1:]


def test_a_loss_has_its_interval_and_its_share() -> None:
    own = {"control_passes": 6, "allreduce_ms_low": 0.0, "allreduce_ms_high": 0.0}
    some = [
        run(1, 40.0, allreduce_ms=0.0, **own),
        run(2, 64.0, allreduce_ms=10.0, **own | {"allreduce_ms_low": 8.0, "allreduce_ms_high": 12.0}),
    ]
    page = Page(rendered(study(some)))
    assert [text for text, _ in page.column("all-reduce", of="losses")] == ["10.0 8.0 to 12.0, 8.0 %"]
    assert "in per cent of the step, with 95 % intervals" in page.words["main"]


def test_the_answer_comes_first() -> None:
    words = Page(rendered(whole())).words["main"]
    assert (
        words.index("On 16 GPUs it trains 12.2 times") < words.index("exposed all-reduce") < words.index("Throughput")
    )


def test_the_split_of_the_auc_is_named_in_the_table_and_in_the_figure() -> None:
    some = runs((1, 2), score=0.7, score_name="AUC (val)")
    it = study(some, auc=auc(some, "test"))
    text = rendered(it)
    assert Page(text).column("AUC (val)") == [("0.700", "0.7")] * 2
    assert "Area under the ROC curve, test split" in text
    assert "The figure shows the test split, the table AUC (val)." in Page(text).words["main"]
    # If sizes have different splits, each cell names its own.
    both = [*runs((1,), score=0.7, score_name="AUC (val)"), *runs((2,), score=0.8, score_name="AUC (test)")]
    assert [text for text, _ in Page(rendered(study(both))).column("score")] == ["0.700 AUC (val)", "0.800 AUC (test)"]


def test_a_model_of_no_use_says_so_in_the_caption_of_its_table() -> None:
    rates = {1: (280.0, 280.0), 2: (247.0, 284.0), 4: (30.0, 200.0), 8: (8.0, 260.0), 16: (140.0, 20.0)}
    wild = [run(gpus, rate, repeat) for gpus, those in rates.items() for repeat, rate in enumerate(those, 1)]
    text = rendered(study(wild, models=predict(table(wild), [32])))
    assert "Of no use: these sizes vary too much to predict 32 GPUs" in text
    assert "> 10 times" in Page(text).column("95 % interval", of="model-0")[-1][0]
    assert "vary too much" not in rendered(whole())


# --- text from elsewhere -------------------------------------------------------------------------

ODD = f"{SCRIPT} \"' onload=x & </pre></title> {{{{ 7 * 7 }}}} \x00\x1b[1m\ud800"


@pytest.mark.parametrize(
    "where", ["title", "params", "failure", "flags", "nodelist", "run", "source", "software", "gpu_model"]
)
def test_a_log_or_a_name_is_always_shown_as_text(where: str) -> None:
    it = study(failing(runs((1, 2)), 2, failure=f"oom: {ODD}"), tails={})
    if where == "title":
        it = dataclasses.replace(it, title=ODD)
    elif where == "params":
        odd = [dataclasses.replace(each, params=f"a={ODD}") for each in it.runs]
        it = dataclasses.replace(it, runs=odd, rows=table(odd))
    elif where != "failure":
        odd = [dataclasses.replace(each, **{where: ODD}) for each in it.runs]  # type: ignore[arg-type]
        it = dataclasses.replace(it, runs=odd, rows=table(odd))
    text = rendered(it)
    found = Page(text)
    assert "script" not in found.tags
    assert "&lt;script&gt;" in text
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", text)
    text.encode()  # raises if a lone surrogate is left
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)


def test_the_tail_of_a_log_has_no_colours_and_does_not_run() -> None:
    found = Page(rendered(study(runs((1,)))))
    assert f"step 40 of g0001-r01\n{SCRIPT}" in found.words["pre"]


def test_provenance_quotes_the_command_and_names_uncommitted_changes() -> None:
    it = study(provenance={
        "command": ["hpcjobs", "sweep", "--set", "data.dir=/a b"], "git": {"commit": "abc", "clean": False},
        "cluster": {"name": "mine", "modules": ["a", "b"], "env": {"X": "1"}, "none": None}, SCRIPT: SCRIPT,
    })  # fmt: skip
    words = Page(rendered(it)).words["main"]
    for part in (
        "hpcjobs sweep --set 'data.dir=/a b'",
        "abc, with uncommitted changes",
        "modules: a, b",
        "env.X: 1",
    ):
        assert part in words
    assert "none" not in words[words.index("Provenance") :]


def test_clean_text() -> None:
    assert clean("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07") == "red link"
    assert clean("10 %\r20 %\r30 %\nnext\r\n") == "30 %\nnext\n"
    assert clean("a\x00b\ud800c\td") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c\td"


# --- with little data ----------------------------------------------------------------------------


def test_runs_of_the_same_name_have_different_anchors() -> None:
    same = [dataclasses.replace(each, run="train.log") for each in runs((1,))]
    found = Page(rendered(study(same)))
    assert [link for link in found.links if link.startswith("#run-")] == ["#run-1", "#run-2", "#run-3"]


def test_no_runs_no_measurement_one_size() -> None:
    assert "There are no runs yet." in Page(rendered(study([]))).words["main"]
    failed = Page(rendered(study(failing(runs((1,)), 1))))
    assert "None of the 3 runs on 1 GPU has a measurement" in failed.words["main"]
    assert "figure" not in failed.tags
    assert [text for text, _ in failed.column("why", of="runs")] == ["out_of_memory: no room"] * 3
    one = Page(rendered(study([run(1, 100.0)])))
    assert "losses" not in one.tables
    assert "provenance" in one.ids


def test_a_table_alone_makes_a_page(tmp_path: Path) -> None:
    paths = write_report(tmp_path, table([run(1, 100.0), run(2, 190.0)]), title="t")
    assert [path.name for path in paths] == [
        "scaling-report.csv", "scaling.png", "scaling.svg", "efficiency.png", "efficiency.svg", "report.html",
    ]  # fmt: skip
    assert "all-runs" not in Page(paths[-1].read_text()).ids
