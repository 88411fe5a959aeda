"""Tables of a study's page: every configuration, a search, answers, measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vramsim.report.search import COLUMNS
from vramsim.report.svg import Point, points
from vramsim.report.timeline import ORDER
from vramsim.report.words import assignment, percent, phase_name
from vramsim.search import Result
from vramsim.study.definition import MEASURES
from vramsim.study.running import Outcome, Row
from vramsim.units import GiB

CONFIDENT = 0.9
"""Odds from which on a configuration that fits is shown without a warning. [-]"""

MOST_POINTS = 4000
MOST_FRONT = 25
FEASIBLE, FRONT = "#9fb3c8", "#dd6b20"
CATEGORIES = tuple(category.value for category in ORDER)
VERDICT = ("verdict", "odds", "used GiB", "9 of 10 within", "usable")
SPEED = ("s per step", "9 of 10 within", "tokens/s per GPU", "tokens/s", "MFU %", "bottleneck")
WORDS = ("base", "configuration", "verdict", "bottleneck", "peaks in")
"""Headings of columns of words."""


def table(heads: Iterable[tuple[str, str]], lines: Iterable[str], sortable: bool = False) -> str:
    """A table that scrolls where it is wider than the page.

    heads : class and heading of each column. [-]   lines : rows, as HTML. [-]   sortable : by a click. [-]
    """
    sort = "sort " if sortable else ""
    head = "".join(f'<th class="{sort}{kind}">{escape(name)}</th>' for kind, name in heads)
    body = "".join(f"<tr>{line}</tr>" if not line.startswith("<tr") else line for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def legend(names: Iterable[tuple[str, str]], more: str = "") -> str:
    """What colours mean.

    names : words and colour. [-]   more : words behind them. [-]
    """
    items = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<div class="legend">{items}<span>{escape(more)}</span></div>'


def value_words(value: Any) -> str:
    """A value of a field as it is written after `--set key=`.

    value : of a field. [as the field]
    """
    return assignment("", f"{value:g}" if isinstance(value, float) else value).strip("'").removeprefix("=")


def sets(values: Mapping[str, Any]) -> str:
    """Values as `--set` takes them.

    values : by key. [as the field]
    """
    return " ".join(assignment(key, value) for key, value in values.items())


# Every configuration --------------------------------------------------------------------------------------------------


def configurations(outcome: Outcome) -> str:
    """A row for every configuration: verdict, memory, time, and what memory is made of.

    outcome : of the study. [-]
    """
    if not outcome.rows:
        return ""
    keys = list(dict.fromkeys(key for row in outcome.rows for key in row.asked.values))
    named = not keys or not outcome.study.grid_only
    first = ["#", *(["base"] if len(outcome.study.bases) > 1 else []), *(["configuration"] if named else [])]
    shown = [] if named else keys
    names = [*first, *(key.rpartition(".")[2].replace("_", " ") for key in shown), *VERDICT, *SPEED, "peaks in"]
    names += [*(each.replace("_", " ") for each in CATEGORIES), "gaps", "host GiB/node"]
    words = {*WORDS, *(key.rpartition(".")[2].replace("_", " ") for key in shown)}
    lines = [_line(row, first, shown, len(names)) for row in outcome.rows]
    told = '<p class="soft">Memory in GiB per GPU, in categories at the peak. A click on a heading sorts.</p>'
    return told + table([("w" if name in words else "", name) for name in names], lines, sortable=True)


def _line(row: Row, first: Sequence[str], keys: Sequence[str], width: int) -> str:
    cells = [f"<td>{row.number}</td>"]
    cells += [f'<td class="w">{escape(row.asked.base)}</td>'] if "base" in first else []
    cells += [f'<td class="w wrap">{escape(row.asked.name)}</td>'] if "configuration" in first else []
    cells += [f'<td class="w">{escape(value_words(row.asked.values.get(key, "")))}</td>' for key in keys]
    if row.estimate is None:
        why = f'<td class="w" colspan="{width - len(cells)}">impossible: {escape(row.refused)}</td>'
        return f'<tr class="no">{"".join(cells)}{why}</tr>'
    return "".join((*cells, *_verdict(row), *_speed(row), *_memory(row)))


def _verdict(row: Row) -> list[str]:
    assert row.estimate is not None
    hbm, odds = row.estimate.memory.hbm, row.metric("fit_probability")
    kind = "bad" if not row.fits else "good" if odds >= CONFIDENT else "tight"
    short = -row.metric("headroom_bytes") / GiB
    verdict = "fits" if row.fits else f"{short:,.1f} GiB short" if short > 0 else "host or NVMe is short"
    low, high = (each / GiB for each in row.estimate.memory_band())
    return [
        f'<td class="w {kind}">{verdict}</td>',
        cell(odds, percent(odds)),
        cell(hbm.used_bytes, f"{float(hbm.used_bytes) / GiB:,.1f}"),
        f"<td>{low:,.0f} to {high:,.0f}</td>",
        f"<td>{float(hbm.capacity_bytes) / GiB:,.1f}</td>",
    ]


def _speed(row: Row) -> list[str]:
    assert row.estimate is not None
    step, (first, last) = row.metric("step_seconds"), row.step_band
    rates = [row.metric(name) for name in ("tokens_per_second_per_device", "tokens_per_second")]
    return [
        cell(step, seconds(step)),
        f"<td>{seconds(first)} to {seconds(last)}</td>",
        *(cell(rate, f"{rate:,.0f}") for rate in rates),
        cell(row.metric("mfu"), f"{100 * row.metric('mfu'):.1f}"),
        f'<td class="w">{escape(str(row.estimate.time.bottleneck))}</td>',
    ]


def _memory(row: Row) -> list[str]:
    assert row.estimate is not None
    hbm, sums = row.estimate.memory.hbm, row.estimate.by_category()
    peak, host = str(hbm.peak_phase), row.metric("host_bytes_per_node") / GiB
    gaps = max(0.0, float(hbm.used_bytes) - sum(sums.values())) / GiB
    return [
        f'<td class="w" title="{escape(phase_name(peak))}">{escape(peak.replace("_", " "))}</td>',
        *(cell(sums[each], f"{sums[each] / GiB:,.1f}") for each in CATEGORIES),
        cell(gaps, f"{gaps:,.1f}"),
        cell(host, f"{host:,.0f}"),
    ]


def cell(value: Any, text: str) -> str:
    """A cell that sorts by its number.

    value : number. [-]   text : what is shown. [-]
    """
    return f'<td data-v="{float(value):.8g}">{escape(text)}</td>'


def seconds(value: float) -> str:
    """Seconds in three digits.

    value : duration. [s]
    """
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


# Search, questions, measurements --------------------------------------------------------------------------------------


def searched(result: Result) -> str:
    """How much of a space is feasible, where it lies, and the front.

    result : what a search found. [-]
    """
    goals = ", ".join(COLUMNS[goal.name][0] if goal.name in COLUMNS else goal.name for goal in result.objectives)
    told = (
        f"{len(result):,} of {result.space.size:,} configurations are feasible ({result.evaluated:,} evaluated by "
        f"{result.method} search); {len(result.front):,} are beaten by no other in {goals}."
    )
    removed = "; ".join(f"{name} {count:,}" for name, count in result.removed.items())
    found = f"<p>{escape(told)}</p>" + (f'<p class="soft">Removed by: {escape(removed)}</p>' if removed else "")
    if not len(result):
        return found
    front = result.pareto
    more = f'<p class="soft">The first {MOST_FRONT} of {len(front):,}.</p>' if len(front) > MOST_FRONT else ""
    chart = points(_dots(result), "used GiB per GPU", "tokens/s of all GPUs")
    colours = legend([("feasible", FEASIBLE), ("beaten by no other", FRONT)], "a dot's row is shown when pointed at")
    return f"{found}{colours}{chart}<h3>Beaten by no other</h3>{more}{_front(result)}"


def _dots(result: Result) -> list[Point]:
    frame, front = result.frame, result.pareto
    thinned = frame.iloc[:: math.ceil(len(frame) / MOST_POINTS)]
    return [
        Point(used / GiB, rate, colour, f"row {number}: {used / GiB:,.1f} GiB, {rate:,.0f} tokens/s", radius)
        for rows, colour, radius in ((thinned, FEASIBLE, 3.0), (front, FRONT, 5.0))
        for number, used, rate in zip(rows.index, rows["used_bytes"], rows["tokens_per_second"], strict=True)
    ]


def _front(result: Result) -> str:
    front = result.pareto.head(MOST_FRONT)
    keys = list(result.space.labels.values())
    metrics = [name for name in COLUMNS if name in front and name not in keys and front[name].any()]
    heads = [("", "row"), *(("w", key) for key in keys), *(("", COLUMNS[name][0]) for name in metrics)]
    lines = []
    for number, line in front.iterrows():
        cells = [f"<td>{number}</td>", *(f'<td class="w">{escape(str(line[key]))}</td>' for key in keys)]
        lines.append("".join((*cells, *(cell(line[name], COLUMNS[name][1](float(line[name]))) for name in metrics))))
    return table(heads, lines, sortable=True)


def answered(outcome: Outcome) -> str:
    """Answers to a study's questions, of each base.

    outcome : of the study. [-]
    """
    several = len(outcome.study.bases) > 1
    lines = []
    for name, answers in outcome.answers.items():
        for answer in answers:
            value = "none" if answer.value is None else f"{answer.value:,.10g} {answer.unit}"
            base = f'<td class="w">{escape(name)}</td>' if several else ""
            why = answer.binding + (f"; {answer.note}" if answer.note else "")
            lines.append(
                f'{base}<td class="w">{escape(answer.question)}</td><td class="w"><b>{escape(value)}</b></td>'
                f'<td class="w wrap">{escape(why)}</td>'
            )
    if not lines:
        return ""
    heads = [("w", "base")] if several else []
    return table([*heads, ("w", "question"), ("w", "answer"), ("w", "what stands in the way")], lines)


def measured(outcome: Outcome) -> str:
    """Measurements beside estimates; those that no configuration matches.

    outcome : of the study. [-]
    """
    lines = [
        f'<td>{each.row.number}</td><td class="w wrap">{escape(each.row.asked.name)}</td>'
        f'<td class="w">{escape(MEASURES[each.what])}</td><td>{each.measured:,.4g}</td><td>{each.estimated:,.4g}</td>'
        f'<td>{each.error:+.1%}</td><td class="w wrap">{escape(each.source)}</td>'
        for each in outcome.compared
    ]
    lost = [
        f"<li>{escape(sets(each.where))}: no configuration of this study is that</li>" for each in outcome.unmatched
    ]
    words = ("what", "configuration", "source")
    names = ("#", "configuration", "what", "measured", "estimated", "off by", "source")
    found = table([("w" if name in words else "", name) for name in names], lines) if lines else ""
    return found + (f"<ul>{''.join(lost)}</ul>" if lost else "")
