"""The figures: what they draw, that the bytes are always the same, and how the page includes them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.container import BarContainer
from PIL import Image

from hpcjobs.analysis.predict import Interval, Prediction, SeriesModels, predict
from hpcjobs.analysis.scaling import table
from hpcjobs.base.records import Reference
from hpcjobs.report import figures, palette
from hpcjobs.report.contents import Contents
from hpcjobs.report.figures_inline import inline
from hpcjobs.report.figures_steps import parts
from hpcjobs.report.figures_style import Drawing, series_style
from tests.control.studies import SIZES, auc, failing, runs, study
from tests.control.sweeps import run


def drawn(it: Contents) -> dict[str, Drawing]:
    return {drawing.name: drawing for drawing in figures.draw(it)}


def axes(drawing: Drawing) -> Axes:
    (found,) = drawing.figure.axes
    return found


def intervals(drawing: Drawing) -> int:
    return sum(len(each.get_segments()) for each in axes(drawing).collections if isinstance(each, LineCollection))


def legend(drawing: Drawing) -> list[str]:
    box = axes(drawing).get_legend() or drawing.figure.legends[0]
    return [text.get_text() for text in box.get_texts()]


def line(drawing: Drawing, name: str) -> list[tuple[float, float]]:
    """The points of the line with that name in the legend."""
    box = axes(drawing).get_legend() or drawing.figure.legends[0]
    handle = box.legend_handles[legend(drawing).index(name)]
    assert handle is not None
    colour, dashes, marker = handle.get_color(), handle.get_linestyle(), handle.get_marker()  # type: ignore[attr-defined]
    for each in axes(drawing).lines:
        if (each.get_color(), each.get_linestyle(), each.get_marker()) == (colour, dashes, marker):
            return [(float(x), float(y)) for x, y in zip(each.get_xdata(), each.get_ydata(), strict=True)]
    raise AssertionError(f"no line {name}")


# --- which figures there are ---------------------------------------------------------------------


def test_a_whole_study_has_all_figures() -> None:
    assert tuple(drawn(study(auc=auc(runs())))) == figures.NAMES


@pytest.mark.parametrize(
    ("those", "names"),
    [
        ([], ()),
        (failing(runs((1,)), 1), ()),
        ([run(1, 100.0)], ("scaling",)),
        ([run(1, 100.0), run(2, 190.0)], ("scaling", "efficiency")),
        (runs((1,)), ("scaling", "time-to-train", "breakdown")),
    ],
)
def test_a_figure_without_data_is_left_out(those: Sequence[object], names: tuple[str, ...]) -> None:
    assert tuple(drawn(study(those))) == names  # type: ignore[arg-type]


def test_files_of_figures_without_data_are_removed(tmp_path: Path) -> None:
    written = figures.write(tmp_path, figures.draw(study(runs((1, 2)))))
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    assert Image.open(tmp_path / "scaling.png").width > 800
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    figures.write(tmp_path, figures.draw(study([run(1, 100.0)])))
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.png", "scaling.svg"}


def test_the_same_table_gives_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    first = {drawing.name: (drawing.svg(), drawing.png()) for drawing in figures.draw(study(auc=auc(runs())))}
    # The user's matplotlibrc has no effect.
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "other")
    again = {drawing.name: (drawing.svg(), drawing.png()) for drawing in figures.draw(study(auc=auc(runs())))}
    assert first == again
    assert matplotlib.rcParams["font.size"] == 30
    assert not re.search(r"20\d\d-\d\d-\d\d", "".join(svg for svg, _ in first.values()))


# --- what they show ------------------------------------------------------------------------------


def test_throughput_has_its_ideal_its_intervals_and_a_tick_for_each_size() -> None:
    drawing = drawn(study())["scaling"]
    assert legend(drawing) == ["measured", "ideal"]
    rates = {row.gpus: row.throughput for row in table(runs())}
    assert line(drawing, "measured") == [(gpus, pytest.approx(rates[gpus])) for gpus in SIZES]
    assert line(drawing, "ideal") == [(gpus, pytest.approx(rates[1] * gpus)) for gpus in SIZES]  # type: ignore[operator]
    drawing.png()
    assert [text.get_text() for text in axes(drawing).get_xticklabels()] == [str(size) for size in SIZES]
    assert axes(drawing).get_xscale() == axes(drawing).get_yscale() == "log"
    assert intervals(drawing) == len(SIZES)
    assert "1 GPU: 640 (624.1 to 655.9);" in drawing.description
    assert "intervals" in drawing.caption
    single = drawn(study(runs(repeats=1)))["scaling"]
    assert not axes(single).containers
    assert "intervals" not in single.caption


def test_a_failed_size_is_marked_and_ticked() -> None:
    drawing = drawn(study(failing(runs(), 16)))["scaling"]
    assert "no measurement" in legend(drawing)
    assert line(drawing, "no measurement")[0][0] == 16
    assert line(drawing, "measured")[-1][0] == 8
    assert list(axes(drawing).xaxis.get_majorticklocs()) == list(SIZES)
    assert "No measurement on 16 GPUs." in drawing.description


def test_params_and_kinds_of_scaling_have_separate_lines() -> None:
    strong = [each for each in runs((1, 2, 4), strong=True) if each.gpus > 1]
    drawing = drawn(study([*runs((2, 4)), *strong, *runs((1, 2), params="a=_1$x$")]))["scaling"]
    assert legend(drawing) == [
        "strong scaling, batch 64 in all", "weak scaling, batch 64 per GPU", "a=_1$x$, weak scaling, batch 64 per GPU", "ideal",
    ]  # fmt: skip
    assert [x for x, _ in line(drawing, "strong scaling, batch 64 in all")] == [2, 4]
    assert "a=_1$x$" in drawing.svg()  # a name is not read as a formula


def test_sizes_that_are_not_compared_have_no_line() -> None:
    odd = [run(1, 100.0, local_batch=8, global_batch=8), run(2, 150.0, local_batch=3, global_batch=6)]
    drawing = drawn(study(odd))["scaling"]
    assert [each.get_linestyle() for each in axes(drawing).lines] == ["None"]
    assert "efficiency" not in drawn(study(odd))


def test_series_differ_in_more_than_colour() -> None:
    looks = [
        (series_style(number)["color"], series_style(number)["marker"], str(series_style(number)["linestyle"]))
        for number in range(40)
    ]
    assert len(set(looks)) == 40
    assert all(a[1] != b[1] and a[2] != b[2] for a, b in itertools.pairwise(looks))


def test_model_reference_and_another_sweep_are_drawn_too() -> None:
    rows = table(runs())
    fitted: list[SeriesModels] = predict(rows, [32], resamples=20)
    published = Reference("published", {1: 200.0, 3: 500.0}, "images")
    others = table(runs((1, 2)))
    drawing = drawn(
        study(models=fitted, reference=published, others=others, others_name="sweeps/old")
    )["scaling"]  # fmt: skip
    assert legend(drawing) == ["measured", "ideal", "model, 95 % interval", "published", "sweeps/old"]
    assert line(drawing, "published") == [(1, 200), (3, 500)]
    # Sizes that were run have ticks; the others, 3 and 32, have ticks in brackets.
    assert list(axes(drawing).xaxis.get_majorticklocs()) == list(SIZES)
    drawing.png()
    assert [text.get_text() for text in axes(drawing).get_xticklabels(minor=True)] == ["(3)", "(32)"]


def test_a_model_that_is_too_wide_does_not_change_the_axes() -> None:
    fitted: list[SeriesModels] = predict(table(runs()), [32], resamples=20)

    def wild(of: Prediction) -> Prediction:
        rate = Interval(6e12 if of.gpus == 32 else of.throughput.value, 34.1, math.inf)
        return dataclasses.replace(of, throughput=rate)

    (series,) = fitted
    model = series.models[0]
    model = dataclasses.replace(model, predictions=tuple(map(wild, model.predictions)))
    drawing = drawn(study(models=[dataclasses.replace(series, models=(model,))]))["scaling"]
    assert axes(drawing).get_ylim() == axes(drawn(study())["scaling"]).get_ylim()
    (band,) = (each for each in axes(drawing).collections if isinstance(each, PolyCollection))
    ends = [y for path in band.get_paths() for _, y in path.vertices]  # type: ignore[union-attr]
    assert (min(ends), max(ends)) == axes(drawing).get_ylim()
    assert "cut off at the axes" in drawing.caption


@pytest.mark.parametrize(
    "rates",
    [
        {
            1: 280.0,
            2: 265.0,
            4: 115.0,
            8: 28.0,
            16: 80.0,
        },  # it gets slower, so that the times rise into the corner of the legend
        {1: 280.0, 2: 120.0, 4: 60.0, 8: 40.0, 16: 30.0},
        {1: 280.0, 2: 60.0, 4: 3000.0, 8: 20.0, 16: 5000.0},
        {gpus: 280.0 * gpus for gpus in SIZES},
    ],
)
def test_no_legend_covers_a_line_or_a_point(rates: dict[int, float]) -> None:
    timed = [
        run(gpus, rate * (1 + k / 20), k, time_to_train_s=1e5 / rate, time_to_train_kind="derived_fixed_epochs")
        for gpus, rate in rates.items()
        for k in (1, 2)
    ]
    for drawing in drawn(study(timed)).values():
        drawing.png()
        box = (axes(drawing).get_legend() or drawing.figure.legends[0]).get_window_extent()
        for each in axes(drawing).lines:
            path = each.get_transform().transform_path(each.get_path())
            assert not path.intersects_bbox(box, filled=False), drawing.name
            assert not box.count_contains(path.vertices), drawing.name


def test_efficiency_is_that_of_the_table() -> None:
    drawing = drawn(study())["efficiency"]
    assert line(drawing, "measured") == [(row.gpus, pytest.approx(row.efficiency)) for row in table(runs())]
    assert "16 GPUs: 76.3 % (74.8 % to 77.9 %)." in drawing.description
    assert intervals(drawing) == len(SIZES) - 1  # the base is exactly 1


def test_time_to_train_has_the_unit_that_suits_it_and_intervals_over_runs() -> None:
    drawing = drawn(study())["time-to-train"]
    assert axes(drawing).get_ylabel() == "time to train, hours"
    assert line(drawing, "measured")[0] == (1, pytest.approx(1e5 / 3600))  # 6.4e7 images at 640 a second
    assert intervals(drawing) == len(SIZES)
    assert drawing.caption.startswith("Derived from the steady rate")
    # The bars come from the runs; without runs there are none.
    assert not axes(drawn(dataclasses.replace(study(), runs=()))["time-to-train"]).containers


def test_the_bars_sum_to_the_step() -> None:
    drawing = drawn(study())["breakdown"]
    heights: dict[float, float] = {}
    for bars in axes(drawing).containers:
        assert isinstance(bars, BarContainer)
        for bar in bars:
            heights[bar.get_x()] = heights.get(bar.get_x(), 0.0) + bar.get_height()
    assert list(heights.values()) == [pytest.approx(row.step_ms) for row in table(runs())]
    assert "all-reduce 26 ms" in drawing.description


def test_a_part_below_zero_is_left_out_and_the_bar_ends_at_the_step() -> None:
    below = [run(2, 100.0, step_ms=99.1, input_wait_ms=-20.1, allreduce_ms=7.0, skew_ms=3.0, compute_ms=110.0)]
    (row,) = table(below)
    assert parts(row) == {
        "compute": pytest.approx(89.1), "input wait": 0.0, "all-reduce": 7.0, "skew": 3.0, "rest": 0.0
    }  # fmt: skip
    drawing = drawn(study(below))["breakdown"]
    assert "99.1" in [text.get_text() for text in axes(drawing).texts]
    assert "Measured below 0 by chance and left out of the bars: input wait on 2 GPUs." in drawing.caption
    assert "2 GPUs: 99.1 ms, made up of" in drawing.description
    assert "input wait of -20.1 ms left out" in drawing.description
    assert "left out" not in drawn(study())["breakdown"].caption


def test_parts_that_are_longer_than_the_step_are_shortened_to_it() -> None:
    long = [run(2, 100.0, step_ms=80.0, input_wait_ms=60.0, allreduce_ms=40.0, compute_ms=70.0)]
    (row,) = table(long)
    assert parts(row) == pytest.approx({"compute": 0.0, "input wait": 48.0, "all-reduce": 32.0, "rest": 0.0})
    caption = drawn(study(long))["breakdown"].caption
    assert "On 2 GPUs the measured parts are longer than the step, and the bars shorten them to fit." in caption


def test_a_part_has_its_interval_and_one_that_is_not_told_apart_is_named() -> None:
    ends = {"input_wait_ms_low": 4.0, "input_wait_ms_high": 6.0, "allreduce_ms_low": -5.0, "allreduce_ms_high": 21.0}
    one = run(2, 100.0, step_ms=80.0, input_wait_ms=5.0, allreduce_ms=8.0, compute_ms=60.0, control_passes=6, **ends)
    drawing = drawn(study([one]))["breakdown"]
    lines = [path.vertices[:, 1] for lines in axes(drawing).collections for path in lines.get_paths()]
    # Around the ends of the parts: 65 and 73 ms from the bottom.
    assert [tuple(line) for line in lines] == [(64.0, 66.0), (60.0, 86.0)]
    assert "input wait 5 ms (4 to 6), all-reduce 8 ms (-5 to 21)" in drawing.description
    assert "Lines show 95 % intervals." in drawing.caption
    assert "Not told apart from nothing, because the control blocks differ: all-reduce on 2 GPUs." in drawing.caption
    assert "apart" not in drawn(study())["breakdown"].caption


def test_many_bars_are_horizontal() -> None:
    many = [each for number in range(5) for each in runs((1, 2, 4, 8), params=f"p={number}")]
    names = [text.get_text() for text in axes(drawn(study(many))["breakdown"]).get_yticklabels()]
    assert (names[0], names[-1], len(names)) == ("p=0: 1", "p=4: 8", 20)


def test_parts_of_a_step() -> None:
    (row,) = table([run(2, 100.0, step_ms=80.0, input_wait_ms=5.0, allreduce_ms=None, compute_ms=70.0)])
    assert parts(row) == {"compute": 70.0, "input wait": 5.0, "rest": 5.0}
    # Computing is cut to what the waits leave of the step.
    (row,) = table([run(2, 100.0, step_ms=80.0, input_wait_ms=15.0, compute_ms=70.0)])
    assert parts(row) == {"compute": 65.0, "input wait": 15.0, "rest": 0.0}
    (row,) = table([run(2, 100.0)])
    assert parts(row) == {}


def test_auc_of_each_finding_with_intervals_of_the_test_split() -> None:
    drawing = drawn(study(auc=[*auc(runs()), *auc(runs(), "val")]))["auc"]
    assert drawing.title == "Area under the ROC curve, test split"
    labels = [text.get_text() for text in axes(drawing).get_yticklabels()]
    assert (labels[0], labels[-1], len(labels)) == ("Atelectasis", "mean", 15)
    assert legend(drawing) == ["1 GPU", "2 GPUs", "4 GPUs", "8 GPUs", "16 GPUs"]
    assert "1 GPU: Atelectasis 0.600, Cardiomegaly 0.610" in drawing.description
    assert "resampled by patient" in drawing.caption


def test_auc_without_intervals_or_with_holes() -> None:
    bare = [{**each, "auc_low": "", "auc_high": ""} for each in auc(runs((1,)), "val") if each["class"] != "Hernia"]
    bare.append({**bare[0], "class": "Hernia", "auc": ""})
    drawing = drawn(study(auc=bare))["auc"]
    assert drawing.title == "Area under the ROC curve, val split"
    assert "resampled" not in drawing.caption
    assert "Hernia" not in drawing.description


def test_flags_are_noted() -> None:
    flagged = [run(1, 100.0, flags="throttled"), run(2, 190.0, flags="throttled dirty_code")]
    assert "demo on mine. Flags: throttled; dirty_code on 2 GPUs" in drawn(study(flagged))["scaling"].svg()


def test_control_characters_do_not_break_an_svg() -> None:
    odd = [run(1, 100.0, params="a=\x1b[31m\x00<b>&"), run(1, 100.0, params="a=2")]
    svg = drawn(study(odd, title="\x07 title"))["scaling"].svg()
    assert "a=\N{REPLACEMENT CHARACTER}<b>&" in "".join(ElementTree.fromstring(svg).itertext())


# --- on a page -----------------------------------------------------------------------------------


def test_inlined_figures_have_unique_ids_and_the_pages_colours() -> None:
    elements = {
        name: str(inline(drawing.svg(), f"f-{name}", "A title & more", "Words <b>"))
        for name, drawing in drawn(study(auc=auc(runs()))).items()
    }
    ids = [one for text in elements.values() for one in re.findall(r'\bid="([^"]*)"', text)]
    assert len(ids) == len(set(ids))
    for name, text in elements.items():
        root = ElementTree.fromstring(text)  # still well-formed
        assert (root.get("role"), root.get("aria-labelledby")) == ("img", f"f-{name}-title")
        used = re.findall(r'(?:href="|url\()#([^")]*)', text)
        assert set(used) <= set(ids)
        assert "<title id=" in text
        assert "A title &amp; more" in text
        assert "Words &lt;b&gt;" in text
        assert "<style" not in text
        assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not {colour for colour in palette.VARIABLES if colour in text}
        assert "var(--ink)" in text
