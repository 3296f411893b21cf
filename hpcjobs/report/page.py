"""report.html: the report as one file, without network access and scripts. Pure: equal contents give equal pages."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from hpcjobs.analysis.compare import compare_reference
from hpcjobs.base.metrics import LOSSES, ScalingRow
from hpcjobs.base.version import __version__
from hpcjobs.report import many, sentences, tables
from hpcjobs.report.contents import Contents, clean, score_name_of, series, singular, unit_of
from hpcjobs.report.figures_inline import inline
from hpcjobs.report.figures_style import Drawing
from hpcjobs.report.page_cells import DASH, Cell, Table, cut, numeric, plain, rounded, signed
from hpcjobs.report.page_runs import run_logs, runs_tables

FILE = "report.html"
TEMPLATE = "report.html.j2"
_COLLECTIVES = (
    "Collectives that NCCL's Inspector recorded: times of the operations themselves, hidden by computing or not. They "
    "are no part of a step, and not exposed all-reduce"
)
_PROVENANCE = {
    "command": "Command", "time": "Time", "user": "User", "host": "Host", "cwd": "Folder",
    "hpcjobs": "hpcjobs", "python": "Python", "git": "Code", "cluster": "Cluster",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as an element of the page."""

    name: str
    svg: Markup
    caption: str


def render(contents: Contents, drawings: Sequence[Drawing]) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("hpcjobs.templates"))),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    briefs = many.of_runs(contents.runs)
    shown = [contents.runs[number] for number in many.shown(briefs)]
    logs = run_logs(shown, contents.tails)
    page = environment.get_template(TEMPLATE).render(
        title=contents.title,
        subtitle=_subtitle(contents),
        highlights=_highlights(contents),
        answers=sentences.answers(contents.rows, contents.runs),
        pictures=[_picture(drawing) for drawing in drawings],
        tables=[
            dataclasses.replace(cut(table), name=f"{table.name}-{number}" if number > 1 else table.name)
            for number, part in enumerate(contents.parts, 1)
            for table in _tables(part)
        ]
        + (
            [cut(plain("collectives", _COLLECTIVES, tables.collectives(contents.collectives)))]
            if contents.collectives
            else []
        ),
        runs=list(runs_tables(briefs, shown, logs)) if contents.runs else [],
        logs=logs,
        provenance=list(_provenance(contents.provenance)),
        software=sorted({row.software for row in contents.rows if row.software}),
        version=__version__,
    )
    return page if page.endswith("\n") else f"{page}\n"


def _printable(value: object) -> object:
    """Removes what a page must not contain. Jinja calls it for each value and then escapes the result."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


# --- the head ------------------------------------------------------------------------------------


def _subtitle(contents: Contents) -> str:
    count = len({row.gpus for row in contents.rows})
    runs = sum(row.runs + row.failed_runs for row in contents.rows)
    parts = [f"{count} size{'s' * (count != 1)}", f"{runs} run{'s' * (runs != 1)}"]
    parts += sorted({f"{row.scaling} scaling" for row in contents.rows if row.scaling in ("weak", "strong")})
    parts += sorted({row.gpu_model for row in contents.rows if row.gpu_model})
    return " · ".join(parts)


def _highlights(contents: Contents) -> list[Cell]:
    """Rate, speed-up and efficiency of the largest measured size. Empty if the table has several series."""
    lines = series(contents.rows)
    measured = lines[0].measured if len(lines) == 1 else ()
    if not measured:
        return []
    row, unit = measured[-1], lines[0].unit
    where = f"{row.gpus} GPU{'s' * (row.gpus != 1)}"
    found = [Cell(rounded(row.throughput), f"{unit}/s on {where}", _between(row, "throughput"))]
    if row.speedup is not None and row.efficiency is not None and row.gpus != row.baseline_gpus:
        over = f"speed-up over {row.baseline_gpus} GPU{'s' * (row.baseline_gpus != 1)}"
        found.append(Cell(f"{row.speedup:.1f}×", over, _between(row, "speedup", ".1f")))
        found.append(Cell(f"{100 * row.efficiency:.1f} %", "efficiency", _between(row, "efficiency", ".1f", 100)))
    return found


def _picture(drawing: Drawing) -> Picture:
    name = f"figure-{drawing.name}"
    return Picture(name, inline(drawing.svg(), name, clean(drawing.title), clean(drawing.description)), drawing.caption)


# --- tables --------------------------------------------------------------------------------------


def _tables(contents: Contents) -> Iterator[Table]:
    yield _scaling(contents.rows)
    if any(row.lost_ms is not None and row.gpus != row.baseline_gpus for row in contents.rows):
        yield _losses(contents.rows)
    for number, fitted in enumerate(contents.models):
        for model in fitted.models[:1]:
            of = " ".join(part for part in (fitted.params, fitted.scaling and f"{fitted.scaling} scaling") if part)
            caption = f"Predictions of the model {model.name}" + (f" for {of}" if of else "")
            caption += '. "left out": error of the prediction if the size is left out of the fit'
            if doubt := tables.doubt(model):
                caption += f". Of no use: {doubt}"
            yield plain(f"model-{number}", caption, tables.predictions(model, fitted.unit))
    if contents.reference is not None:
        name = contents.reference.name
        found = compare_reference(contents.rows, contents.reference)
        if not any(row.params for row in contents.rows):
            found.sort(key=lambda each: each.gpus)
        cells = tables.beside(found, contents.reference)
        caption = f"Compared with {name}. Each efficiency is relative to the base of its own table"
        yield plain("reference", caption, cells)
    if contents.differences:
        caption = f"Compared with {contents.others_name}, with Welch's 95 % intervals"
        caption += '. "real": by Holm\'s correction over all sizes'
        yield plain("against", caption, tables.differences(contents.differences))


def _scaling(rows: Sequence[ScalingRow]) -> Table:
    """The scaling table: the numbers of scaling-report.csv, rounded. Each cell also has the exact number."""
    has_params = any(row.params for row in rows) or len({row.experiment for row in rows}) > 1
    has_batch = len({(row.experiment, row.params, row.gpus) for row in rows}) < len(rows)
    scores = {row.score_name for row in rows if row.score is not None}
    score, unit = score_name_of(rows), unit_of(rows)
    per_unit = f"J/{singular(unit)}"
    optional = {
        score: any(row.score is not None for row in rows),
        "time to train": any(row.time_to_train_s is not None for row in rows),
        "start-up": any(row.startup_s is not None for row in rows),
        "MFU": any(row.mfu is not None for row in rows),
        per_unit: any(row.energy_per_unit_j is not None for row in rows),
        "W/GPU": any(row.gpu_power_w is not None for row in rows),
        "node kWh": any(row.node_energy_kwh is not None for row in rows),
        "flags": any(row.flags for row in rows),
    }
    header = [
        *(["series"] if has_params else []), "GPUs", *(["batch/GPU"] if has_batch else []), "nodes", "runs",
        f"{unit}/s", "per GPU", "speed-up", "efficiency", "step, ms",
        *(name for name, there in optional.items() if there),
    ]  # fmt: skip
    lines = []
    for row in rows:
        scored = clean(row.score_name) if len(scores) > 1 else ""
        more = {
            score: dataclasses.replace(numeric(row.score, ".3f"), note=scored),
            "time to train": _duration(row.time_to_train_s),
            "start-up": _duration(row.startup_s),
            "MFU": Cell(DASH) if row.mfu is None else Cell(f"{100 * row.mfu:.1f} %", f"{row.mfu:.6g}"),
            per_unit: dataclasses.replace(numeric(row.energy_per_unit_j, ".3g"), note=row.energy_source),
            "W/GPU": numeric(row.gpu_power_w, ".0f"),
            "node kWh": dataclasses.replace(numeric(row.node_energy_kwh, ".3g"), note=row.node_energy_plugin),
            "flags": Cell(row.flags),
        }
        name = ", ".join(part for part in (row.experiment, row.params) if part)
        lines.append([
            *([Cell(name)] if has_params else []),
            numeric(row.gpus, ","),
            *([numeric(row.local_batch, ",")] if has_batch else []),
            numeric(row.nodes, ","),
            Cell(f"{row.runs} of {row.runs + row.failed_runs}" if row.failed_runs else str(row.runs)),
            _sure(row, "throughput"),
            numeric(row.throughput_per_gpu),
            _sure(row, "speedup", ".2f"),
            _share(row),
            numeric(row.step_ms),
            *(more[name] for name, there in optional.items() if there),
        ])  # fmt: skip
    caption = "Throughput, speed-up and efficiency by size"
    if any(row.throughput_low is not None for row in rows):
        caption += ", with 95 % intervals over runs"
    return Table("scaling", caption, header, lines, int(has_params), ("series", "flags"))


def _losses(rows: Sequence[ScalingRow]) -> Table:
    """The lost time and its parts, in ms with their intervals, and in per cent of the step."""
    has_params = any(row.params for row in rows) or len({row.experiment for row in rows}) > 1
    header = [*(["series"] if has_params else []), "GPUs", "step, ms", "lost", *tables.LOSS_NAMES.values()]
    lines = []
    for row in rows:
        if row.lost_ms is None or row.gpus == row.baseline_gpus:
            continue
        name = ", ".join(part for part in (row.experiment, row.params) if part)
        losses = [_loss(row, part) for part in ("", *LOSSES)]
        lines.append([*([Cell(name)] if has_params else []), numeric(row.gpus, ","), numeric(row.step_ms), *losses])
    caption = "Lost time of a step compared with ideal scaling, in ms and in per cent of the step"
    if any(getattr(row, f"lost_{part}_ms_low", None) is not None for row in rows for part in LOSSES):
        caption += ", with 95 % intervals"
    return Table("losses", caption, header, lines, int(has_params), ("series",))


def _loss(row: ScalingRow, part: str) -> Cell:
    name = f"lost_{part}_ms" if part else "lost_ms"
    share = "" if (found := row.share(part)) is None else f"{found:.1f} %"
    between = "" if part == "other" else _between(row, name, ".1f")
    note = signed(", ".join(text for text in (between, share) if text))
    return dataclasses.replace(numeric(getattr(row, name), ".1f"), note=note)


# --- provenance ------------------------------------------------------------------------------------


def _provenance(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each fact, in a fixed order. A nested value becomes lines of `key: value`."""
    for key in (*_PROVENANCE, *(key for key in provenance if key not in _PROVENANCE)):
        value = provenance.get(key)
        if value in (None, "", {}, []):
            continue
        if key == "command" and isinstance(value, list):
            text = shlex.join(map(str, value))
        elif key == "git" and isinstance(value, Mapping):
            state = ", with uncommitted changes" if value.get("clean") is False else ""
            places = [f"{value.get('commit', 'unknown commit')}{state}", str(value.get("remote") or "")]
            text = "\n".join(place for place in places if place)
        else:
            text = "\n".join(_flat(value))
        yield _PROVENANCE.get(key, key), text


def _flat(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if inner not in (None, "", {}, []):
                yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    yield f"{prefix}: {text}" if prefix else text


# --- cells ---------------------------------------------------------------------------------------


def _sure(row: ScalingRow, name: str, form: str = "") -> Cell:
    return dataclasses.replace(numeric(getattr(row, name), form), note=_between(row, name, form))


def _share(row: ScalingRow) -> Cell:
    if row.efficiency is None:
        return Cell(DASH)
    return Cell(f"{100 * row.efficiency:.1f} %", f"{row.efficiency:.6g}", _between(row, "efficiency", ".1f", 100))


def _between(row: ScalingRow, name: str, form: str = "", factor: float = 1) -> str:
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    if low is None or high is None:
        return ""
    ends = [format(factor * end, form) if form else rounded(factor * end) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def _duration(seconds: float | None) -> Cell:
    """A time in a suitable unit."""
    if seconds is None:
        return Cell(DASH)
    for factor, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * factor:
            return Cell(f"{seconds / factor:.1f} {unit}", f"{seconds:.6g}")
    return Cell(f"{seconds:.1f} s", f"{seconds:.6g}")
