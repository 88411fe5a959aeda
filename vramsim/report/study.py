"""A study as one self-contained HTML page: what was asked, what fits, charts, tables, how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import vramsim
from vramsim.report import study_tables as tables
from vramsim.report.search import COLUMNS
from vramsim.report.svg import Bar, Point, bars, points
from vramsim.report.timeline import COLOURS, ORDER
from vramsim.report.words import gib, percent, run_words
from vramsim.space import Objective
from vramsim.study.running import Outcome, Row
from vramsim.units import GiB

MOST_BARS = 60
FEWEST_POINTS = 8
GOOD, BAD, GAPS = "#2f855a", "#c53030", "#d9d9d9"


def headline(outcome: Outcome) -> str:
    """What came of a study, in one sentence.

    outcome : of the study. [-]
    """
    rows, fitting = len(outcome.rows), len(outcome.fitting)
    words = f"{fitting} of {rows} configuration{'s' * (rows != 1)} fit{'s' * (fitting == 1)}"
    impossible = rows - len(outcome.estimated)
    words += f", {impossible} {'is' if impossible == 1 else 'are'} impossible" if impossible else ""
    for result in outcome.searched.values():
        words += f"; of {result.space.size:,} searched, {len(result):,} are feasible"
    return words + "."


def study_page(outcome: Outcome, written: Sequence[Path], values: Mapping[str, Any]) -> str:
    """The page, as text of one HTML file that needs nothing else.

    outcome : of the study. [-]   written : files beside it. [-]   values : what `--set` changed in the study. [-]
    """
    study = outcome.study
    several = len(study.bases) > 1
    sections = [
        ("What was asked", _asked(outcome)),
        ("The best that fit", _best(outcome)),
        ("Memory per GPU at the peak, against what there is", _memory(outcome)),
        ("Throughput", _throughput(outcome)),
        ("Every configuration", tables.configurations(outcome)),
        *((f"Search{f' of {name}' if several else ''}", tables.searched(r)) for name, r in outcome.searched.items()),
        ("Questions", tables.answered(outcome)),
        ("Measured", tables.measured(outcome)),
        ("Assumptions and warnings", _notes(outcome)),
        ("Run it again", _again(outcome, written, values)),
    ]
    body = "".join(f"<section><h2>{escape(title)}</h2>{each}</section>" for title, each in sections if each)
    about = f'<p class="about">{escape(study.about)}</p>' if study.about else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(study.title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_beside('study.css')}</style></head><body><main><h1>{escape(study.title)}</h1>{about}"
        f'<p class="lead">{escape(headline(outcome))}</p>{body}</main>'
        f"<script>{_beside('study.js')}</script></body></html>\n"
    )


@cache
def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# What was asked, and the best -----------------------------------------------------------------------------------------


def _asked(outcome: Outcome) -> str:
    study = outcome.study
    found = []
    for name, case in study.bases.items():
        head = f"<h3>{escape(name)}</h3>" if len(study.bases) > 1 else ""
        found.append(head + _pairs(run_words(case.resolve()).items()))
    values: dict[str, list[str]] = {}
    for row in outcome.rows:
        for key, value in row.asked.values.items():
            if (text := tables.value_words(value)) not in values.setdefault(key, []):
                values[key].append(text)
    if values:
        found.append(f"<h3>What differs among {len(outcome.rows)} configurations</h3>")
        found.append(_pairs((key, ", ".join(each)) for key, each in values.items()))
    return "".join(found)


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(words)}</dd>" for key, words in pairs) + "</dl>"


def _best(outcome: Outcome) -> str:
    if not outcome.rows:
        return ""
    if not outcome.fitting:
        nearest = max(outcome.estimated, key=lambda row: row.metric("fit_probability"))
        short = f"{gib(-nearest.metric('headroom_bytes'))} short"
        return f'<p class="bad">None fits. Nearest: {escape(nearest.asked.name)}, {short}.</p>'
    lines = []
    for goal in outcome.study.compare:
        row = outcome.best(goal)
        assert row is not None
        value, odds = row.metric(goal.name), row.metric("fit_probability")
        shown = COLUMNS[goal.name][1](value) if goal.name in COLUMNS else f"{value:,.6g}"
        lines.append(
            f'<td class="w">{escape(_goal(goal))}</td><td><b>{escape(shown)}</b></td><td>{row.number}</td>'
            f'<td class="w wrap">{escape(row.asked.name)}</td><td>{percent(odds)}</td>'
            f'<td class="w wrap"><code>{escape(tables.sets(row.asked.values)) or "as it is"}</code></td>'
        )
    heads = [("w", "best in"), ("", "value"), ("", "#"), ("w", "configuration"), ("", "odds to fit"), ("w", "--set")]
    return tables.table(heads, lines)


def _goal(goal: Objective) -> str:
    name = COLUMNS[goal.name][0] if goal.name in COLUMNS else goal.name.replace("_", " ")
    return f"{'most' if goal.sign < 0 else 'least'} {name}"


# Charts ---------------------------------------------------------------------------------------------------------------


def _drawn(outcome: Outcome) -> tuple[Sequence[Row], str]:
    """Configurations of which a bar is drawn, and what is said of the others."""
    rows = outcome.estimated
    if len(rows) <= MOST_BARS:
        return rows, ""
    chosen = sorted(rows, key=lambda row: (not row.fits, -row.metric("tokens_per_second")))[:MOST_BARS]
    return chosen, f'<p class="soft">The {MOST_BARS} fastest of {len(rows)}, those that fit first.</p>'


def _memory(outcome: Outcome) -> str:
    rows, told = _drawn(outcome)
    drawn = []
    for row in rows:
        assert row.estimate is not None
        hbm, sums = row.estimate.memory.hbm, row.estimate.by_category()
        segments = [(_name(each.value), sums[each.value] / GiB, COLOURS[each]) for each in ORDER]
        gaps = max(0.0, float(hbm.used_bytes) - sum(sums.values())) / GiB
        text = f"{float(hbm.used_bytes) / GiB:,.1f} {'fits' if row.fits else 'does not fit'}"
        limit = float(hbm.capacity_bytes) / GiB
        drawn.append(Bar(_label(row), (*segments, ("allocator's gaps", gaps, GAPS)), text, limit))
    if not drawn:
        return ""
    names = [*((_name(each.value), COLOURS[each]) for each in ORDER), ("allocator's gaps", GAPS)]
    colours = tables.legend(names, "dashed: what the device exposes")
    return f"{told}{colours}{bars(drawn, 'GiB (2^30 bytes)', 'usable GiB')}"


def _throughput(outcome: Outcome) -> str:
    rows, told = _drawn(outcome)
    drawn = []
    for row in rows:
        assert row.estimate is not None
        rate, (low, high) = row.metric("tokens_per_second_per_device"), row.estimate.throughput_band()
        text = f"{rate:,.0f} · MFU {percent(row.metric('mfu'))}"
        colour = GOOD if row.fits else BAD
        drawn.append(Bar(_label(row), (("tokens/s per GPU", rate, colour),), text, 0.0, low, high, not row.fits))
    if not drawn:
        return ""
    colours = tables.legend([("fits", GOOD), ("does not fit", BAD)], "whiskers: where nine of ten runs should land")
    found = f"{told}{colours}{bars(drawn, 'tokens/s per GPU')}"
    return found + _plane(outcome.estimated) if len(outcome.estimated) >= FEWEST_POINTS else found


def _plane(rows: Sequence[Row]) -> str:
    dots, limits = [], set()
    for row in sorted(rows, key=lambda each: each.fits):
        assert row.estimate is not None
        used, rate = row.metric("used_bytes") / GiB, row.metric("tokens_per_second")
        about = f"{_label(row)}: {used:,.1f} GiB, {rate:,.0f} tokens/s"
        name = str(row.number) if len(rows) <= MOST_BARS else ""
        dots.append(Point(used, rate, GOOD if row.fits else BAD, about, 5.0, name))
        limits.add(float(row.estimate.memory.hbm.capacity_bytes) / GiB)
    drawn = points(dots, "used GiB per GPU", "tokens/s of all GPUs", sorted(limits))
    return f"<h3>Throughput of all GPUs against memory per GPU</h3>{drawn}"


def _label(row: Row) -> str:
    return f"{row.number} · {row.asked.name}"


def _name(category: str) -> str:
    return category.replace("_", " ")


# Notes, and how to run it again ---------------------------------------------------------------------------------------


def _notes(outcome: Outcome) -> str:
    count = len(outcome.estimated)
    lines = [
        "used memory is what the driver would show: tensors, what the caching allocator holds beyond them, and what "
        "lies outside of it; odds and bands come from the errors of published runs"
    ]
    lines += [note + (f" ({times} of {count})" if times < count else "") for note, times in outcome.notes().items()]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _again(outcome: Outcome, written: Sequence[Path], values: Mapping[str, Any]) -> str:
    study = outcome.study
    command = f"vramsim study run {shlex.quote(study.path.name)} --out DIR"
    command += f" --set {tables.sets(values)}" if values else ""
    files = "".join(f"<li><code>{escape(path.name)}</code></li>" for path in written)
    return (
        f"<p>vramsim {vramsim.__version__}: <code>{escape(command)}</code></p><h3>Beside this page</h3><ul>{files}</ul>"
        f"<h3>{escape(study.path.name)}</h3><pre>{escape(study.text)}</pre>"
    )
