"""One case's estimate as text and tables for a terminal.

Memory is shown in GiB (2^30 bytes) and time in seconds; every table says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vramsim.estimate import Estimate, Store
from vramsim.report.advice import advice_report
from vramsim.report.shapes import SideBySide, bullets, plain_table, stacked
from vramsim.report.words import gib, percent, phase_name, run_words
from vramsim.search.advice import Change
from vramsim.spec import Category
from vramsim.units import GiB, Num

BAR_WIDTH = 10
SMALL = 0.01
"""Share of the peak below which a component is not listed by name. [-]"""

CONFIDENT = 0.9
"""Probability from which on a case that fits is said to fit without a word of warning. [-]"""


def estimate_report(
    estimate: Estimate, changes: Sequence[Change] = (), understood: Sequence[str] = ()
) -> RenderableType:
    """All that a person wants to see of an estimate: the verdict first, then memory, time, ways out, and notes.

    estimate : of one case. [-]   changes : what would make it fit, or faster. [-]
    understood : notes on how the case was read from files of other programs. [-]
    """
    sections: list[RenderableType] = [
        verdict(estimate),
        SideBySide(by_phase(estimate), at_the_peak(estimate)),
        *off_device(estimate),
        SideBySide(speed(estimate), by_activity(estimate)),
        *advice_report(estimate, changes),
    ]
    if notes := (*understood, *estimate.notes):
        sections.append(bullets("Notes", notes))
    return stacked(sections)


def verdict(estimate: Estimate) -> RenderableType:
    """FITS or DOES NOT FIT and by how much; where memory peaks, and what is largest there; the case as understood.

    estimate : of one case. [-]
    """
    hbm = estimate.memory.hbm
    reasons = [
        f"each node's {name} is {gib(-_spare(store))} short ({_of(store.used_bytes_per_node, _capacity(store))})"
        for name, store in _stores(estimate)
        if _spare(store) < 0
    ]
    used = _of(hbm.used_bytes, hbm.capacity_bytes)
    if hbm.headroom_bytes < 0:
        reasons.insert(0, f"each GPU is {gib(-hbm.headroom_bytes)} short ({used} usable)")
    else:
        reasons.append(f"{gib(hbm.headroom_bytes)} to spare on each GPU ({used} usable)")
    sure = estimate.fit_probability >= CONFIDENT
    word, style = ("FITS", "bold green" if sure else "bold yellow") if estimate.fits else ("DOES NOT FIT", "bold red")
    largest = estimate.components()[0]
    facts = {
        "peak": f"in {phase_name(hbm.peak_phase)}; largest there: {largest.name}, {gib(largest.nbytes)}",
        "odds": f"{percent(estimate.fit_probability)} that it fits",
        **run_words(estimate.graph.setup),
    }
    grid = Table.grid(padding=(0, 2))
    for name, words in facts.items():
        grid.add_row(Text(name, style="dim"), Text(words))
    return Group(Text.assemble((f"{word}: ", style), (";\n".join(reasons), "bold")), grid)


def by_phase(estimate: Estimate) -> Table:
    """Memory in use per GPU in each phase, in order, as the driver shows it.

    estimate : of one case. [-]
    """
    hbm = estimate.memory.hbm
    table = plain_table("Memory per GPU by phase", "phase", "GiB", "")
    scale = max(hbm.capacity_bytes, float(hbm.used_bytes))
    for name, used in hbm.by_phase.items():
        peak = name == hbm.peak_phase
        over = used > hbm.capacity_bytes
        filled = round(BAR_WIDTH * float(used) / scale)
        bar = Text.assemble(("█" * filled, "red" if over else "green"), ("·" * (BAR_WIDTH - filled), "dim"))
        table.add_row(name.replace("_", " "), _number(used), bar, style="bold" if peak else "")
    table.add_row("usable", _number(hbm.capacity_bytes), style="dim")
    return table


def at_the_peak(estimate: Estimate) -> Table:
    """What is in device memory at the peak: categories, the components that make them up, and what they sum to.

    estimate : of one case. [-]
    """
    hbm = estimate.memory.hbm
    table = plain_table(f"At the peak, in {hbm.peak_phase.replace('_', ' ')}", "what", "GiB", "share")
    used = float(hbm.used_bytes)
    sums = {name: nbytes for name, nbytes in estimate.by_category().items() if nbytes}
    components = estimate.components()
    for category, nbytes in sorted(sums.items(), key=lambda item: -item[1]):
        table.add_row(category.replace("_", " "), _number(nbytes), percent(nbytes / used))
        for component in components:
            share = component.by_category().get(Category(category), 0.0)
            if abs(share) >= SMALL * used:
                table.add_row(Text(f"  {component.name}"), _number(share), style="dim")
    slack = used - sum(sums.values())
    table.add_row("allocator's rounding and gaps", _number(slack), percent(slack / used))
    table.add_row("used, as the driver shows it", _number(used), style="bold")
    return table


def off_device(estimate: Estimate) -> list[Table]:
    """A table of host memory and NVMe per node; none if nothing lives there.

    estimate : of one case. [-]
    """
    table = plain_table("Off the GPUs, per node", "where", "needs GiB", "has GiB")
    for name, store in _stores(estimate):
        if store.used_bytes_per_node > 0:
            row = (_number(store.used_bytes_per_node), _number(store.capacity_bytes_per_node))
            table.add_row(name, *row, style="bold red" if _spare(store) < 0 else "")
    return [table] if table.row_count else []


def speed(estimate: Estimate) -> Table:
    """Step time, tokens per second and utilization: the best estimate between all and no overlap.

    estimate : of one case. [-]
    """
    time = estimate.time
    table = plain_table("Speed", "", "all overlapped", "estimate", "none overlapped")
    brackets = (time.lower_seconds, time.step_seconds, time.upper_seconds)
    table.add_row("seconds per step", *(_seconds(seconds, time.step_seconds) for seconds in brackets))
    rates = (
        ("tokens/s per GPU", time.tokens_per_second_per_device, "{:,.0f}"),
        ("model TFLOP/s per GPU", time.model_tflops_per_device, "{:,.1f}"),
        ("MFU, % of datasheet peak", 100 * time.mfu, "{:.1f}"),
        ("HFU, % of datasheet peak", 100 * time.hfu, "{:.1f}"),
    )
    for name, rate, shape in rates:
        table.add_row(name, *(shape.format(rate * time.step_seconds / seconds) for seconds in brackets))
    return table


def by_activity(estimate: Estimate) -> Table:
    """Where the step's time goes: seconds that nothing else hides.

    estimate : of one case. [-]
    """
    time = estimate.time
    table = plain_table("Where the step goes", "activity", "s", "share")
    for name, seconds in sorted(time.by_activity.items(), key=lambda item: -float(item[1])):
        shown = f"{name} (exposed)" if name in ("communication", "offload") else name.replace("_", " ")
        share = percent(seconds / time.step_seconds)
        table.add_row(shown, _seconds(seconds, time.step_seconds), share)
    return table


def _stores(estimate: Estimate) -> tuple[tuple[str, Store], ...]:
    return ("host RAM", estimate.memory.host), ("NVMe", estimate.memory.nvme)


def _capacity(store: Store) -> float:
    return float(store.capacity_bytes_per_node)


def _spare(store: Store) -> float:
    return _capacity(store) - float(store.used_bytes_per_node)


def _of(used: Num, capacity: Num) -> str:
    return f"{float(used) / GiB:,.1f} of {gib(capacity)}"


def _number(nbytes: Num) -> str:
    return f"{float(nbytes) / GiB:,.2f}"


def _seconds(seconds: Num, step: Num) -> str:
    """Seconds with as many decimals as the step's size asks for: a table's numbers line up."""
    decimals = 2 if step >= 10 else 3 if step >= 1 else 4
    return f"{float(seconds):,.{decimals}f}"
