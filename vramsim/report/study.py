"""A study as one self-contained HTML page: what was asked, what fits, charts, tables, assumptions, how to run it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import vramsim
from vramsim.report.search import COLUMNS
from vramsim.report.svg import Bar, Point, bars, points
from vramsim.report.timeline import COLOURS, ORDER
from vramsim.report.words import assignment, gib, percent, phase_name, run_words
from vramsim.search import Result
from vramsim.space import Objective
from vramsim.study.definition import MEASURES
from vramsim.study.running import Outcome, Row
from vramsim.units import GiB

MOST_BARS = 60
MOST_POINTS = 4000
GAPS = "#d9d9d9"
GOOD, BAD, FRONT = "#2f855a", "#c53030", "#dd6b20"
STYLE = """
:root{--ink:#1f2933;--soft:#616e7c;--line:#e4e7eb;--paper:#fff;--back:#f5f7fa;--good:#2f855a;--bad:#c53030;--tight:#b7791f}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa5b1;--line:#323f4b;--paper:#1f2933;--back:#151b21;
--good:#68d391;--bad:#fc8181;--tight:#f6ad55}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 24px 60px}h1{font-size:26px;margin:0 0 4px;line-height:1.25}
h2{font-size:18px;margin:0 0 10px}.soft{color:var(--soft)}section{background:var(--paper);border:1px solid var(--line);
border-radius:8px;padding:18px 20px;margin:16px 0}.lead{font-size:17px;font-weight:600;margin:10px 0 0}
.good{color:var(--good)}.bad{color:var(--bad)}.tight{color:var(--tight)}.about{white-space:pre-line;max-width:85ch}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;width:100%}
th,td{padding:5px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
th{color:var(--soft);font-weight:600;vertical-align:bottom}th.sort{cursor:pointer}th.sort:hover{color:var(--ink)}
td.w,th.w{text-align:left}td.wrap{white-space:normal;min-width:220px}tbody tr:hover{background:var(--back)}
tr.no td{color:var(--soft)}dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:0}
dt{color:var(--soft)}dd{margin:0}svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg .tick{fill:var(--soft)}svg .grid{stroke:var(--line)}
svg .limit{stroke:var(--bad);stroke-width:1.6;stroke-dasharray:4 3}svg .band{stroke:var(--ink);stroke-width:1.2}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;margin:0 0 8px;color:var(--soft)}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px;vertical-align:-1px}
pre{background:var(--back);border:1px solid var(--line);border-radius:6px;padding:12px;overflow-x:auto;font-size:12.5px}
code{background:var(--back);border-radius:4px;padding:1px 4px;font-size:12.5px}ul{margin:0;padding-left:20px}
@media print{body{background:#fff}section{break-inside:avoid;border-color:#ccc}}
"""
SCRIPT = """
document.querySelectorAll('th.sort').forEach(function(head){head.addEventListener('click',function(){
var table=head.closest('table'),at=[].indexOf.call(head.parentNode.children,head),up=head.dataset.up!=='1';
head.dataset.up=up?'1':'0';var body=table.tBodies[0],rows=[].slice.call(body.rows);
function key(row){var cell=row.cells[at];var v=cell.dataset.v!==undefined?cell.dataset.v:cell.textContent;
var n=parseFloat(v);return isNaN(n)?v:n}
rows.sort(function(a,b){var x=key(a),y=key(b);if(typeof x!==typeof y)return typeof x==='number'?-1:1;
return (x<y?-1:x>y?1:0)*(up?1:-1)});rows.forEach(function(row){body.appendChild(row)})})});
"""


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
    sections = [
        _section("What was asked", _asked(outcome)),
        _section("The best that fit", _best(outcome)),
        _section("Memory per GPU at the peak, against what there is", _memory(outcome)),
        _section("Throughput", _throughput(outcome)),
        _section("Every configuration", _table(outcome)),
        *(_section(f"Search{_of(outcome, name)}", _search(result)) for name, result in outcome.searched.items()),
        _section("Questions", _answers(outcome)),
        _section("Measured", _measured(outcome)),
        _section("Assumptions and warnings", _notes(outcome)),
        _section("Run it again", _again(outcome, written, values)),
    ]
    about = f'<p class="about">{escape(study.about)}</p>' if study.about else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(study.title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>{escape(study.title)}</h1>{about}"
        f'<p class="lead">{escape(headline(outcome))}</p>{"".join(sections)}</main><script>{SCRIPT}</script></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _of(outcome: Outcome, name: str) -> str:
    return f" of {name}" if len(outcome.study.bases) > 1 else ""


# What was asked, and the best -----------------------------------------------------------------------------------------


def _asked(outcome: Outcome) -> str:
    study = outcome.study
    found = []
    for name, case in study.bases.items():
        head = f"<p><b>{escape(name)}</b></p>" if len(study.bases) > 1 else ""
        pairs = "".join(f"<dt>{key}</dt><dd>{escape(words)}</dd>" for key, words in run_words(case.resolve()).items())
        found.append(f"{head}<dl>{pairs}</dl>")
    values: dict[str, list[str]] = {}
    for row in outcome.rows:
        for key, value in row.asked.values.items():
            values.setdefault(key, [])
            if (text := _value(value)) not in values[key]:
                values[key].append(text)
    if values:
        pairs = "".join(f"<dt>{escape(key)}</dt><dd>{escape(', '.join(each))}</dd>" for key, each in values.items())
        found.append(f'<p class="soft">What differs among {len(outcome.rows)} configurations</p><dl>{pairs}</dl>')
    return "".join(found)


def _value(value: Any) -> str:
    return assignment("", value).removeprefix("'").removesuffix("'").removeprefix("=")


def _best(outcome: Outcome) -> str:
    if not outcome.fitting:
        near = sorted(outcome.estimated, key=lambda row: -row.metric("fit_probability"))[:1]
        words = f" Nearest: {near[0].asked.name}, {gib(-near[0].metric('headroom_bytes'))} short." if near else ""
        return f'<p class="bad">None fits.{escape(words)}</p>'
    rows = []
    for goal in outcome.study.compare:
        row = outcome.best(goal)
        assert row is not None
        cells = [f'<td class="w">{_goal(goal)}</td>', f"<td><b>{_metric(goal.name, row.metric(goal.name))}</b></td>"]
        cells += [f"<td>{row.number}</td>", f'<td class="w wrap">{escape(row.asked.name)}</td>']
        cells += [f"<td>{percent(row.metric('fit_probability'))}</td>"]
        sets = " ".join(assignment(key, value) for key, value in row.asked.values.items())
        cells += [f'<td class="w wrap"><code>{escape(sets) or "as it is"}</code></td>']
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = _heads(
        ("w", "best in"), ("", "value"), ("", "#"), ("w", "configuration"), ("", "odds to fit"), ("w", "--set")
    )
    return f'<div class="scroll"><table><thead>{heads}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _goal(goal: Objective) -> str:
    name = COLUMNS[goal.name][0] if goal.name in COLUMNS else goal.name
    return f"{'most' if goal.sign < 0 else 'least'} {escape(name)}"


def _metric(name: str, value: float) -> str:
    return COLUMNS[name][1](value) if name in COLUMNS else f"{value:,.6g}"


def _heads(*columns: tuple[str, str]) -> str:
    return "<tr>" + "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in columns) + "</tr>"


# Charts ---------------------------------------------------------------------------------------------------------------


def _shown(outcome: Outcome) -> tuple[Sequence[Row], str]:
    """Configurations of which a bar is drawn, and what is said of the others."""
    rows = outcome.estimated
    if len(rows) <= MOST_BARS:
        return rows, ""
    chosen = sorted(rows, key=lambda row: (not row.fits, -row.metric("tokens_per_second")))[:MOST_BARS]
    told = f"The {MOST_BARS} of {len(rows)} configurations that are fastest, those that fit first."
    return chosen, f'<p class="soft">{told}</p>'


def _memory(outcome: Outcome) -> str:
    rows, told = _shown(outcome)
    if not rows:
        return ""
    drawn = []
    for row in rows:
        assert row.estimate is not None
        hbm = row.estimate.memory.hbm
        sums = row.estimate.by_category()
        segments = [(_name(each.value), sums[each.value] / GiB, COLOURS[each]) for each in ORDER]
        gaps = max(0.0, float(hbm.used_bytes) - sum(sums.values())) / GiB
        verdict = f"{float(hbm.used_bytes) / GiB:,.1f} {'fits' if row.fits else 'does not fit'}"
        limit = float(hbm.capacity_bytes) / GiB
        drawn.append(Bar(_label(row), (*segments, ("allocator's gaps", gaps, GAPS)), verdict, limit))
    names = [(_name(each.value), COLOURS[each]) for each in ORDER] + [("allocator's gaps", GAPS)]
    return f"{told}{_legend(names, 'dashed: what the device exposes')}{bars(drawn, 'GiB (2^30 bytes)', 'usable GiB')}"


def _throughput(outcome: Outcome) -> str:
    rows, told = _shown(outcome)
    if not rows:
        return ""
    drawn = []
    for row in rows:
        assert row.estimate is not None
        rate, (low, high) = row.metric("tokens_per_second_per_device"), row.estimate.throughput_band()
        text = f"{rate:,.0f} · MFU {percent(row.metric('mfu'))}"
        colour = GOOD if row.fits else BAD
        drawn.append(Bar(_label(row), (("tokens/s per GPU", rate, colour),), text, 0.0, low, high, not row.fits))
    legend = _legend([("fits", GOOD), ("does not fit", BAD)], "whiskers: where nine of ten measured runs should land")
    found = f"{told}{legend}{bars(drawn, 'tokens/s per GPU')}"
    if len(outcome.estimated) < 8:
        return found
    dots = [
        Point(
            row.metric("used_bytes") / GiB,
            row.metric("tokens_per_second"),
            GOOD if row.fits else BAD,
            f"{_label(row)}: {row.metric('used_bytes') / GiB:,.1f} GiB, {row.metric('tokens_per_second'):,.0f} tokens/s",
            5.0,
        )
        for row in outcome.estimated[:MOST_POINTS]
    ]
    limits = sorted({float(row.estimate.memory.hbm.capacity_bytes) / GiB for row in outcome.estimated if row.estimate})
    return f"{found}<h2>Throughput of all GPUs against memory per GPU</h2>{points(dots, 'used GiB per GPU', 'tokens/s', limits)}"


def _label(row: Row) -> str:
    return f"{row.number}  {row.asked.name}"


def _name(category: str) -> str:
    return category.replace("_", " ")


def _legend(names: Iterable[tuple[str, str]], more: str = "") -> str:
    items = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<div class="legend">{items}<span>{escape(more)}</span></div>'


# Tables ---------------------------------------------------------------------------------------------------------------

CATEGORIES = tuple(category.value for category in ORDER)


def _table(outcome: Outcome) -> str:
    if not outcome.rows:
        return ""
    several = len(outcome.study.bases) > 1
    keys = [key for key in dict.fromkeys(key for row in outcome.rows for key in row.asked.values)]
    named = bool(keys) and any(not _is_grid(row) for row in outcome.rows)
    columns = [
        ("", "#"),
        *([("w", "base")] if several else []),
        *([("w", "configuration")] if named or not keys else []),
    ]
    columns += [("w", key.rpartition(".")[2].replace("_", " ")) for key in ([] if named else keys)]
    columns += [
        ("w", "verdict"),
        ("", "odds"),
        ("", "used GiB"),
        ("", "9 of 10 within"),
        ("", "usable"),
        ("w", "peaks in"),
    ]
    columns += [("", _name(category)) for category in CATEGORIES] + [("", "gaps"), ("", "host GiB/node")]
    columns += [("", "s per step"), ("", "9 of 10 within"), ("", "tokens/s per GPU"), ("", "tokens/s"), ("", "MFU %")]
    columns += [("w", "bottleneck")]
    head = "<tr>" + "".join(f'<th class="sort {kind}">{escape(name)}</th>' for kind, name in columns) + "</tr>"
    body = "".join(_line(row, several, named or not keys, [] if named else keys, len(columns)) for row in outcome.rows)
    told = '<p class="soft">Memory in GiB per GPU, in categories at the peak. A click on a heading sorts.</p>'
    return f'{told}<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _is_grid(row: Row) -> bool:
    return row.asked.name.endswith(", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in row.asked.values.items()))


def _line(row: Row, several: bool, named: bool, keys: Sequence[str], width: int) -> str:
    cells = [f"<td>{row.number}</td>"]
    cells += [f'<td class="w">{escape(row.asked.base)}</td>'] if several else []
    cells += [f'<td class="w wrap">{escape(row.asked.name)}</td>'] if named else []
    for key in keys:
        cells.append(f'<td class="w">{escape(_value(row.asked.values[key])) if key in row.asked.values else ""}</td>')
    if row.estimate is None:
        rest = width - len(cells)
        return (
            f'<tr class="no">{"".join(cells)}<td class="w" colspan="{rest}">impossible: {escape(row.refused)}</td></tr>'
        )
    hbm, time = row.estimate.memory.hbm, row.estimate.time
    odds = row.metric("fit_probability")
    kind = "bad" if not row.fits else "good" if odds >= 0.9 else "tight"
    short = "" if row.metric("headroom_bytes") >= 0 else f" by {-row.metric('headroom_bytes') / GiB:,.1f}"
    verdict = "fits" if row.fits else f"does not fit{short}"
    cells += [f'<td class="w {kind}">{verdict}</td>', _cell(odds, percent(odds))]
    low, high = (each / GiB for each in row.estimate.memory_band())
    cells += [_cell(hbm.used_bytes, f"{float(hbm.used_bytes) / GiB:,.1f}"), f"<td>{low:,.0f} to {high:,.0f}</td>"]
    cells += [
        f"<td>{float(hbm.capacity_bytes) / GiB:,.1f}</td>",
        f'<td class="w" title="{phase_name(hbm.peak_phase)}">{hbm.peak_phase}</td>',
    ]
    sums = row.estimate.by_category()
    cells += [_cell(sums[each], f"{sums[each] / GiB:,.1f}") for each in CATEGORIES]
    cells += [f"<td>{max(0.0, float(hbm.used_bytes) - sum(sums.values())) / GiB:,.1f}</td>"]
    host = row.metric("host_bytes_per_node") / GiB
    cells += [_cell(host, f"{host:,.0f}")]
    first, last = row.step_band
    cells += [
        _cell(time.step_seconds, _seconds(float(time.step_seconds))),
        f"<td>{_seconds(first)} to {_seconds(last)}</td>",
    ]
    for name in ("tokens_per_second_per_device", "tokens_per_second"):
        cells.append(_cell(row.metric(name), f"{row.metric(name):,.0f}"))
    cells += [_cell(time.mfu, f"{100 * float(time.mfu):.1f}"), f'<td class="w">{escape(str(time.bottleneck))}</td>']
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any, text: str) -> str:
    return f'<td data-v="{float(value):.8g}">{escape(text)}</td>'


def _seconds(value: float) -> str:
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def _search(result: Result) -> str:
    words = [
        f"{len(result):,} of {result.space.size:,} configurations are feasible ({result.evaluated:,} evaluated, "
        f"{result.method}); {len(result.front):,} are beaten by no other in {', '.join(g.name for g in result.objectives)}."
    ]
    removed = "".join(f"<li>{escape(name)}: {count:,}</li>" for name, count in result.removed.items())
    found = f"<p>{escape(words[0])}</p>" + (f'<p class="soft">Removed by</p><ul>{removed}</ul>' if removed else "")
    if not len(result):
        return found
    frame, front = result.frame, result.pareto
    step = math.ceil(len(frame) / MOST_POINTS)
    thinned = frame.iloc[::step]
    dots = [
        Point(x / GiB, y, "#9fb3c8", f"row {n}", 3.0)
        for n, x, y in zip(thinned.index, thinned["used_bytes"], thinned["tokens_per_second"], strict=True)
    ]
    dots += [
        Point(x / GiB, y, FRONT, f"row {n}, on the front: {x / GiB:,.1f} GiB, {y:,.0f} tokens/s", 5.0)
        for n, x, y in zip(front.index, front["used_bytes"], front["tokens_per_second"], strict=True)
    ]
    keys = list(result.space.labels.values())
    metrics = [name for name in COLUMNS if name in front and name not in keys]
    head = "".join(f'<th class="sort w">{escape(key)}</th>' for key in keys)
    head += "".join(f'<th class="sort">{escape(COLUMNS[name][0])}</th>' for name in metrics)
    body = []
    for number, line in front.head(25).iterrows():
        cells = f"<td>{number}</td>" + "".join(f'<td class="w">{escape(str(line[key]))}</td>' for key in keys)
        cells += "".join(_cell(line[name], COLUMNS[name][1](float(line[name]))) for name in metrics)
        body.append(f"<tr>{cells}</tr>")
    legend = _legend([("feasible", "#9fb3c8"), ("beaten by no other", FRONT)])
    chart = points(dots, "used GiB per GPU", "tokens/s of all GPUs")
    more = f'<p class="soft">The first 25 of {len(front):,} on the front.</p>' if len(front) > 25 else ""
    table = f'<table><thead><tr><th class="sort">row</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'{found}{legend}{chart}{more}<div class="scroll">{table}</div>'


def _answers(outcome: Outcome) -> str:
    lines = []
    for name, answers in outcome.answers.items():
        for answer in answers:
            value = "none" if answer.value is None else f"{answer.value:,.10g} {answer.unit}"
            base = f'<td class="w">{escape(name)}</td>' if len(outcome.study.bases) > 1 else ""
            note = f"; {answer.note}" if answer.note else ""
            lines.append(
                f'<tr>{base}<td class="w">{escape(answer.question)}</td><td><b>{escape(value)}</b></td>'
                f'<td class="w wrap">{escape(answer.binding + note)}</td></tr>'
            )
    if not lines:
        return ""
    heads = [("w", "base")] if len(outcome.study.bases) > 1 else []
    head = _heads(*heads, ("w", "question"), ("", "answer"), ("w", "what stands in the way beyond"))
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _measured(outcome: Outcome) -> str:
    lines = [
        f'<tr><td>{c.row.number}</td><td class="w wrap">{escape(c.row.asked.name)}</td><td class="w">{escape(MEASURES[c.what])}'
        f"</td><td>{c.measured:,.4g}</td><td>{c.estimated:,.4g}</td><td>{c.error:+.1%}</td>"
        f'<td class="w wrap">{escape(c.source)}</td></tr>'
        for c in outcome.compared
    ]
    lost = "".join(
        f"<li>{escape(_sets(each.where))}: no configuration of this study is that</li>" for each in outcome.unmatched
    )
    lost = f"<ul>{lost}</ul>" if lost else ""
    if not lines:
        return lost
    head = _heads(
        ("", "#"),
        ("w", "configuration"),
        ("w", "what"),
        ("", "measured"),
        ("", "estimated"),
        ("", "off by"),
        ("w", "source"),
    )
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>{lost}'


def _sets(values: Mapping[str, Any]) -> str:
    return " ".join(assignment(key, value) for key, value in values.items())


# Notes, and how to run it again ---------------------------------------------------------------------------------------


def _notes(outcome: Outcome) -> str:
    count = len(outcome.estimated)
    lines = []
    for note, times in outcome.notes().items():
        of = "" if times >= count else f' <span class="soft">({times} of {count})</span>'
        lines.append(f"<li>{escape(note)}{of}</li>")
    fixed = "<li>Used memory is what the driver would show: tensors, what the caching allocator holds beyond them, and what "
    fixed += "lies outside of it. It is an estimate: the odds and bands come from the errors of published runs.</li>"
    return f"<ul>{fixed}{''.join(lines)}</ul>"


def _again(outcome: Outcome, written: Sequence[Path], values: Mapping[str, Any]) -> str:
    study = outcome.study
    sets = _sets(values)
    command = f"vramsim study run {shlex.quote(study.path.name)} --out DIR" + (f" --set {sets}" if sets else "")
    files = "".join(f"<li><code>{escape(path.name)}</code></li>" for path in written)
    return (
        f"<p>vramsim {vramsim.__version__}, <code>{escape(command)}</code></p><p class='soft'>Beside this page:</p><ul>{files}</ul>"
        f"<p class='soft'>{escape(study.path.name)}</p><pre>{escape(study.text)}</pre>"
    )
