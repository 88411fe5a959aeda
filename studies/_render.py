"""Markdown tables and static plots of the studies in this folder.

Colours are those of Okabe and Ito, which people with any colour vision tell apart.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import use

use("Agg")
from matplotlib import pyplot as plt

BLUE, SKY, ORANGE, GREEN, PINK, VERMILION = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
GREY, LIGHT = "#8C8C8C", "#D9D9D9"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "savefig.dpi": 110,
    "savefig.bbox": "tight",
}


PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
"""Behind text that would otherwise lie on a line."""


class Panel(NamedTuple):
    """One group of stacked bars: series -> a value per bar, and a mark across each bar."""

    title: str
    stacks: Mapping[str, Sequence[float]]
    marks: Sequence[float]


class Curve(NamedTuple):
    """Points of one kind, whether each is drawn hollow, and what is written beside some of them."""

    label: str
    points: Sequence[tuple[float, float]]
    hollow: Sequence[bool]
    notes: Mapping[tuple[float, float], str]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown table, its columns as wide as their widest cell so that it reads well as text, too.

    Columns in which a word stands are set to the left, numbers to the right.

    head : column names. [-]   rows : cells. [-]
    """
    body = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*body, strict=True))
    if len(columns) != len(head):
        raise ValueError(f"each row needs {len(head)} cells")
    left = [any(re.search("[A-Za-z]", cell) for cell in column) for column in columns]
    widths = [max(map(len, (name, *column))) for name, column in zip(head, columns, strict=True)]
    rule = ["-" * w if text else "-" * (w - 1) + ":" for w, text in zip(widths, left, strict=True)]
    lines = []
    for row in [list(head), rule, *body]:
        cells = (c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, left, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def wrapped(text: str, width: int = 120) -> str:
    """Markdown with its paragraphs and list items filled to a line length; tables, headings and images stay.

    text : Markdown. [-]   width : of a line. [characters]
    """
    filled = []
    for paragraph in re.split(r"\n(?=- )|\n\n", text):
        if re.match(r"[|#!]|$", paragraph):
            filled.append(paragraph)
        else:
            indent = "  " if paragraph.startswith("- ") else ""
            words = " ".join(paragraph.split())
            filled.append(textwrap.fill(words, width, subsequent_indent=indent, break_on_hyphens=False))
    return re.sub(r"(?m)^(- .*(?:\n  .*)*)\n\n(?=- )", r"\1\n", "\n\n".join(filled)).rstrip() + "\n"


def stacked_bars(
    path: Path, bars: Sequence[str], panels: Sequence[Panel], limit: tuple[float, str], ylabel: str, mark: str
) -> None:
    """Panels of stacked bars side by side, a line at a limit.

    path : file to write. [-]   bars : labels. [-]   panels : what to draw. [-]   limit : value and its label. [-]
    ylabel : quantity and unit. [-]   mark : what the marks across bars mean. [-]
    """
    colours = [BLUE, SKY, ORANGE, GREEN, PINK, GREY, LIGHT]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(9.2, 3.9), sharey=True, layout="constrained")
        for axis, panel in zip(axes, panels, strict=True):
            bottom = [0.0] * len(bars)
            for (name, values), colour in zip(panel.stacks.items(), colours, strict=True):
                axis.bar(bars, values, 0.68, bottom=bottom, label=name, color=colour)
                bottom = [low + value for low, value in zip(bottom, values, strict=True)]
            for place, (top, first) in enumerate(zip(bottom, panel.marks, strict=True)):
                axis.text(place, top + 1.2, f"{top:.0f}", ha="center", va="bottom", bbox=PAPER, zorder=4)
                label = mark if not place else None
                axis.hlines(first, place - 0.34, place + 0.34, color="black", linewidth=1.6, label=label)
            axis.axhline(limit[0], color=VERMILION, linewidth=1.3, linestyle=(0, (5, 2)))
            axis.set_title(panel.title)
            axis.grid(axis="y")
            axis.tick_params(axis="x", length=0)
        axes[0].set_ylabel(ylabel)
        axes[-1].text(len(bars) - 0.6, limit[0] + 1, limit[1], color=VERMILION, ha="right", va="bottom")
        handles, labels = axes[0].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i] == mark)  # the mark last
        shown = [handles[i] for i in order], [labels[i] for i in order]
        figure.legend(*shown, loc="outside lower center", ncols=4, columnspacing=1.4, handlelength=1.4)
        _save(figure, path)


def curves(path: Path, lines: Sequence[Curve], others: Sequence[Sequence[float]], words: Mapping[str, str]) -> None:
    """Points joined in the order of x, in one colour and shape a curve, over other points in grey.

    path : file to write. [-]   lines : what matters. [-]   others : points without a curve. [-]
    words : texts for x, y (quantity and unit), solid, hollow and others (what they mean). [-]
    """
    shapes = [("o", BLUE), ("s", ORANGE), ("D", GREEN), ("^", PINK)]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
        axis.scatter(*zip(*others, strict=True), 7, color=LIGHT, label=words["others"], zorder=1)
        for line, (shape, colour) in zip(lines, shapes, strict=True):
            points = sorted(line.points)
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=0.9, zorder=2)
            fills = ["white" if hollow else colour for hollow in line.hollow]
            axis.scatter(*zip(*line.points, strict=True), 34, c=fills, marker=shape, edgecolors=colour, zorder=3)
            axis.plot([], [], shape, color=colour, label=line.label)
            for point, text in line.notes.items():
                axis.annotate(text, point, (-7, -4), textcoords="offset points", ha="right", va="top", color=colour)
        for name, fill in (("solid", GREY), ("hollow", "white")):
            axis.plot([], [], "o", color=GREY, markerfacecolor=fill, label=words[name])
        axis.set(xlabel=words["x"], ylabel=words["y"])
        axis.grid()
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1.6, handletextpad=0.4)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
