"""Charts as SVG text: stacked bars against a limit, bars with a band, points. No script, no network, no dependency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1080.0
ROW = 24.0
FARTHEST = 2.5
"""Times the largest limit at which bars are cut off. [-]"""
CHARACTER = 6.3
"""Width of a character of the charts' text. [px]"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One horizontal bar: its label, lengths and colours of its segments, what stands behind it, and a mark across it.

    `segments` are (name, length, colour); `low` and `high` the ends of a band; `limit` where the mark is (0: none).
    """

    label: str
    segments: tuple[tuple[str, float, str], ...]
    text: str
    limit: float = 0.0
    low: float = 0.0
    high: float = 0.0
    faded: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One point: where it is, its colour and radius, what is told of it, and a short name beside it."""

    x: float
    y: float
    colour: str
    text: str
    radius: float = 4.0
    name: str = ""


def bars(rows: Sequence[Bar], unit: str, limit_name: str = "") -> str:
    """Horizontal bars, a row each, with an axis below.

    rows : from top to bottom. [-]   unit : of lengths, under the axis. [-]   limit_name : what the marks are. [-]
    """
    left = min(max((len(row.label) for row in rows), default=0) * CHARACTER + 14, 380.0)
    right = max((len(row.text) for row in rows), default=0) * CHARACTER + 14
    most = max((max(sum(s[1] for s in row.segments), row.high, row.limit) for row in rows), default=1.0) or 1.0
    limit = max((row.limit for row in rows), default=0.0)
    most = min(most, FARTHEST * limit) if limit else most
    scale = (WIDTH - left - right) / most
    height = ROW * len(rows) + 46
    parts = [_opened(height)]
    for tick in ticks(most):
        x = left + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 40:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 26:.1f}" text-anchor="middle">{tick:g}</text>')
    middle = left + most * scale / 2
    parts.append(f'<text class="tick" x="{middle:.1f}" y="{height - 8:.1f}" text-anchor="middle">{escape(unit)}</text>')
    for index, row in enumerate(rows):
        parts += _bar(row, left, scale, 6 + ROW * index, most, limit_name)
    return "".join((*parts, "</svg>"))


def _bar(row: Bar, left: float, scale: float, top: float, most: float, limit_name: str) -> Iterator[str]:
    middle, thick = top + ROW / 2 - 1, ROW - 9
    label = _cut(row.label, int((left - 14) / CHARACTER))
    full = f"<title>{escape(row.label)}</title>"
    yield f'<text class="label" x="{left - 8:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(label)}{full}</text>'
    x = left
    for name, length, colour in row.segments:
        if length <= 0 or x >= left + most * scale:
            continue
        about = f"{row.label}: {name} {length:,.2f}"
        faded = ' opacity="0.45"' if row.faded else ""
        width = max(min(length * scale, left + most * scale - x), 0.5)
        place = f'x="{x:.1f}" y="{middle - thick / 2:.1f}" width="{width:.1f}"'
        yield f'<rect {place} height="{thick:.1f}" fill="{colour}"{faded}><title>{escape(about)}</title></rect>'
        x += length * scale
    if x > left + most * scale + 0.5:
        yield f'<text class="value" x="{left + most * scale - 9:.1f}" y="{middle + 4:.1f}">»</text>'
    if row.high > 0:
        low, high = left + row.low * scale, left + row.high * scale
        yield f'<line class="band" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>'
        for end in (low, high):
            yield f'<line class="band" x1="{end:.1f}" y1="{middle - 4:.1f}" x2="{end:.1f}" y2="{middle + 4:.1f}"/>'
    if row.limit > 0:
        mark = left + row.limit * scale
        about = f"<title>{escape(limit_name)} {row.limit:,.1f}</title>"
        ends = f'x1="{mark:.1f}" y1="{top - 1:.1f}" x2="{mark:.1f}" y2="{top + ROW - 1:.1f}"'
        yield f'<line class="limit" {ends}>{about}</line>'
    yield f'<text class="value" x="{left + most * scale + 8:.1f}" y="{middle + 4:.1f}">{escape(row.text)}</text>'


def points(given: Sequence[Point], x_unit: str, y_unit: str, limits: Sequence[float] = ()) -> str:
    """Points in a plane, with vertical lines at limits.

    given : points, the uppermost last. [-]   x_unit, y_unit : beside the axes. [-]   limits : where lines are. [x]
    """
    left, right, top, bottom = 78.0, 20.0, 12.0, 46.0
    height = 380.0
    most_x = max([point.x for point in given] + list(limits), default=1.0) * 1.04 or 1.0
    most_y = max((point.y for point in given), default=1.0) * 1.08 or 1.0
    wide, high = (WIDTH - left - right) / most_x, (height - top - bottom) / most_y
    parts = [_opened(height)]
    for tick in ticks(most_x):
        x = left + tick * wide
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in ticks(most_y):
        y = height - bottom - tick * high
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH - right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    parts.append(
        f'<text class="tick" x="{(left + WIDTH) / 2:.1f}" y="{height - 8}" text-anchor="middle">{escape(x_unit)}</text>'
    )
    centre = (height - bottom) / 2
    turned = f'transform="translate(14 {centre}) rotate(-90)"'
    parts.append(f'<text class="tick" {turned} text-anchor="middle">{escape(y_unit)}</text>')
    for limit in limits:
        x = left + limit * wide
        parts.append(f'<line class="limit" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - bottom}"/>')
    for point in given:
        x, y = left + point.x * wide, height - bottom - point.y * high
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:g}" fill="{point.colour}" fill-opacity="0.8">'
            f"<title>{escape(point.text)}</title></circle>"
        )
        if point.name:
            parts.append(f'<text class="tick" x="{x + 7:.1f}" y="{y - 5:.1f}">{escape(point.name)}</text>')
    return "".join((*parts, "</svg>"))


def _opened(height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to a largest one, five or so.

    most : largest value. [any]

    >>> ticks(96.0)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    if not 0 < most < math.inf:
        return [0.0]
    rough = most / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * index for index in range(int(most / step) + 1)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(most - 1, 1)]}…"
