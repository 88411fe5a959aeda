"""A replay for people: a few lines for the terminal, a Chrome trace for Perfetto, and a page to look around in.

The page shows the device on which most is alive: what lies in its memory over time, by category, with the peak and the
capacity marked, above what its streams do. Building and saving the model take no modelled time; they are drawn as wide
as they are legible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from vramsim.errors import VramsimError
from vramsim.estimate import Estimate
from vramsim.replay.timeline import Moment, Span, Timeline
from vramsim.report.shapes import plain_table, stacked
from vramsim.report.words import gib, percent
from vramsim.spec import Category, Phase
from vramsim.units import MICROSECOND, GiB

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ORDER = (
    Category.PARAMETER,
    Category.OPTIMIZER_STATE,
    Category.GRADIENT,
    Category.ACTIVATION,
    Category.TEMPORARY,
    Category.INPUT,
    Category.OVERHEAD,
)
"""Categories from the bottom of the plot to its top: what stays longest lies lowest."""
COLOURS = {
    Category.PARAMETER: "#4c78a8",
    Category.OPTIMIZER_STATE: "#72b7b2",
    Category.GRADIENT: "#f58518",
    Category.ACTIVATION: "#54a24b",
    Category.TEMPORARY: "#eeca3b",
    Category.INPUT: "#b279a2",
    Category.OVERHEAD: "#bab0ac",
}
PHASE_COLOURS = {"forward": "#4c78a8", "head": "#b279a2", "backward": "#54a24b", "reduce": "#f58518", "step": "#e45756"}
STREAMS = ("host", "compute", "scale_up", "scale_out", "pcie", "host_memory", "nvme", "cpu")
"""Streams in the order in which they are shown."""
BARS = 4000
"""Bars that a page draws layer by layer; with more, neighbours of one pass become one. [-]"""


def timeline_report(timeline: Timeline, estimate: Estimate) -> RenderableType:
    """The peak, the step, what every stream did, beside what the closed form says.

    timeline : of a case. [-]   estimate : of the same case. [-]
    """
    peak, hbm = timeline.peak, estimate.memory.hbm
    where = f"on stage {peak.device + 1} of {len(timeline.graphs)}, " if len(timeline.graphs) > 1 else ""
    text = Text()
    text.append("Peak ", "bold")
    text.append(
        f"{gib(timeline.allocated_bytes)} alive, {gib(timeline.used_bytes)} used of {gib(hbm.capacity_bytes)}: "
        f"{where}{_seconds(peak.time)} after the start, in {peak.doing}\n"
    )
    text.append("Step ", "bold")
    text.append(
        f"{_seconds(timeline.step_seconds)}, the first {_seconds(timeline.first_step_seconds)}; in closed form "
        f"{_seconds(float(estimate.time.step_seconds))}\n"
    )
    text.append(f"{len(timeline.spans):,} events on {len(timeline.graphs)} device{'s' * (len(timeline.graphs) > 1)}")
    table = plain_table("Streams in one step", "stream", "busy", "share of the step")
    busy = timeline.busy_seconds()
    for stream in (each for each in STREAMS if each in busy):
        table.add_row(stream, _seconds(busy[stream]), percent(busy[stream] / max(timeline.step_seconds, 1e-30)))
    return stacked([text, table])


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def write_trace(timeline: Timeline, path: Path) -> None:
    """Write a trace in the Chrome format, for ui.perfetto.dev or chrome://tracing: spans, and memory as counters.

    timeline : to write. [-]   path : of a .json file. [-]
    Raises VramsimError if the file's name ends otherwise.
    Source: Trace Event Format, its JSON object form; times in microseconds.
    """
    if path.suffix != ".json":
        raise VramsimError(f"a trace is a .json file, got {str(path)!r}")
    path.write_text(json.dumps({"traceEvents": list(_events(timeline)), "displayTimeUnit": "ms"}), encoding="utf-8")


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for device, graph in enumerate(timeline.graphs):
        name = f"stage {device + 1}" if len(timeline.graphs) > 1 else graph.setup.cluster.device.name
        yield {"ph": "M", "pid": device, "name": "process_name", "args": {"name": name}}
        for thread, stream in enumerate(STREAMS):
            yield {"ph": "M", "pid": device, "tid": thread, "name": "thread_name", "args": {"name": stream}}
            yield {"ph": "M", "pid": device, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": thread}}
    for span in timeline.spans:
        about: dict[str, Any] = {"step": span.step, "phase": span.phase}
        about |= {"micro_batch": span.batch} if span.batch is not None else {}
        about |= {"bytes": span.nbytes} if span.nbytes else {}
        yield {
            "ph": "X",
            "pid": span.device,
            "tid": STREAMS.index(span.stream),
            "name": span.name,
            "cat": span.phase,
            "ts": span.start / MICROSECOND,
            "dur": (span.end - span.start) / MICROSECOND,
            "args": about,
        }
    for moment in timeline.memory:
        amounts = {category.value: moment.by_category.get(category, 0.0) for category in ORDER}
        yield {
            "ph": "C",
            "pid": moment.device,
            "name": "memory [bytes]",
            "ts": moment.time / MICROSECOND,
            "args": amounts,
        }


def write_page(timeline: Timeline, path: Path, title: str = "") -> None:
    """Write the page: one self-contained HTML file.

    timeline : to draw. [-]   path : of an .html file. [-]   title : above the plot. [-]
    Raises VramsimError if the file's name ends otherwise, or plotly is not installed.
    """
    if path.suffix != ".html":
        raise VramsimError(f"a plot is an .html file, got {str(path)!r}")
    path.write_text(
        figure(timeline, title).to_html(include_plotlyjs=True, full_html=True, default_height="95vh"), encoding="utf-8"
    )


def figure(timeline: Timeline, title: str = "") -> Figure:
    """Memory by category over time, above the streams, of the device on which most is alive.

    timeline : to draw. [-]   title : above the plot. [-]
    Raises VramsimError if plotly is not installed.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError:
        raise VramsimError("drawing a replay needs plotly: pip install 'vramsim[report]'") from None
    device = timeline.peak.device
    moments = [moment for moment in timeline.memory if moment.device == device]
    spans = [span for span in timeline.spans if span.device == device]
    drawn = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    end = moments[-1].time
    margin = 0.04 * end
    times, rows = _widened(moments, margin)
    for category in ORDER:
        nbytes = [row.by_category.get(category, 0.0) / GiB for row in rows]
        if any(nbytes):
            drawn.add_trace(
                graph_objects.Scatter(
                    x=times,
                    y=nbytes,
                    name=category.value.replace("_", " "),
                    stackgroup="alive",
                    line={"width": 0, "shape": "hv"},
                    fillcolor=COLOURS[category],
                    customdata=[row.doing for row in rows],
                    hovertemplate="%{y:.2f} GiB · %{customdata}",
                ),
                row=1,
                col=1,
            )
    _mark(drawn, timeline, margin)
    _streams(drawn, graph_objects, spans)
    stage = f" · stage {device + 1} of {len(timeline.graphs)}" if len(timeline.graphs) > 1 else ""
    drawn.update_layout(
        title=f"{title or timeline.graphs[0].setup.model.name}{stage}",
        template="plotly_white",
        hovermode="x unified",
        legend={"traceorder": "reversed", "groupclick": "toggleitem"},
        barmode="overlay",
        font={"size": 13},
    )
    drawn.update_yaxes(title_text="alive on the device [GiB]", row=1, col=1, rangemode="tozero")
    drawn.update_xaxes(title_text="time [s]", row=2, col=1, range=[-1.2 * margin, end + 1.2 * margin])
    return drawn


def _widened(moments: Sequence[Moment], margin: float) -> tuple[list[float], list[Moment]]:
    """Times and moments, with building and saving the model given some width at either end."""
    build, *between, save = moments
    times = [-margin, *(moment.time for moment in between), save.time, save.time + margin]
    return times, [build, *between, save, save]


def _mark(drawn: Figure, timeline: Timeline, margin: float) -> None:
    """The peak, what the device can hold, and what is not timed."""
    peak, capacity = timeline.peak, float(timeline.graphs[0].setup.cluster.device.usable_memory) / GiB
    end = max(moment.time for moment in timeline.memory)
    time = {Phase.INIT.label: -margin / 2, Phase.SAVE.label: end + margin / 2}.get(peak.doing, peak.time)
    total = sum(peak.by_category.values()) / GiB
    drawn.add_hline(
        y=capacity,
        line={"dash": "dash", "color": "#e45756"},
        annotation_text=f"usable {capacity:.1f} GiB",
        row=1,
        col=1,
    )
    drawn.add_annotation(
        x=time, y=total, text=f"peak {total:.1f} GiB, {peak.doing}", showarrow=True, arrowhead=2, ay=-28, row=1, col=1
    )
    for x, text in ((-margin / 2, "init"), (end + margin / 2, "save")):
        drawn.add_annotation(x=x, y=0, yshift=10, text=text, showarrow=False, row=1, col=1, font={"size": 11})


def _streams(drawn: Figure, graph_objects: Any, spans: Sequence[Span]) -> None:
    """What each stream does, coloured by phase."""
    shown = list(spans) if len(spans) <= BARS else list(_joined(spans))
    for phase, colour in PHASE_COLOURS.items():
        mine = [span for span in shown if span.phase == phase]
        if not mine:
            continue
        drawn.add_trace(
            graph_objects.Bar(
                base=[span.start for span in mine],
                x=[span.end - span.start for span in mine],
                y=[span.stream.replace("_", " ") for span in mine],
                orientation="h",
                name=phase,
                legendgroup="streams",
                legendgrouptitle={"text": "streams"},
                marker={"color": colour, "line": {"width": 0}},
                customdata=[
                    f"{span.name}{'' if span.batch is None else f', micro-batch {span.batch}'}" for span in mine
                ],
                hovertemplate="%{customdata}: %{x:.4g} s",
            ),
            row=2,
            col=1,
        )
    present = {span.stream for span in shown}
    names = [stream.replace("_", " ") for stream in reversed(STREAMS) if stream in present]
    drawn.update_yaxes(categoryorder="array", categoryarray=names, row=2, col=1)


def _about(span: Span) -> str:
    return span.name if span.batch is None else f"{span.name}, micro-batch {span.batch}"


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Neighbours of one stream that belong to one pass, as one span."""
    for stream in STREAMS:
        open_: Span | None = None
        for span in (each for each in spans if each.stream == stream):
            same = open_ is not None and (open_.phase, open_.batch, open_.step) == (span.phase, span.batch, span.step)
            if open_ is not None and same:
                open_ = Span(
                    span.device, stream, span.phase, span.phase, open_.start, span.end, span.step, span.batch, 0.0
                )
                continue
            if open_ is not None:
                yield open_
            open_ = span
        if open_ is not None:
            yield open_
