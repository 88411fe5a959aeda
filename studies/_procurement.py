"""Plots of a recommendation: time against cost, and what the cost depends on."""

from __future__ import annotations

import re
from pathlib import Path

import _render as render
from _render import BLUE, GREEN, GREY, LIGHT, ORANGE, PAPER, PINK, STYLE, VERMILION
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from vramsim.catalog.prices import BUY, ON_DEMAND
from vramsim.procure.offers import Offer
from vramsim.procure.recommend import Recommendation
from vramsim.procure.sensitivity import WORDS, tornado

COLOURS = (PINK, GREEN, BLUE, ORANGE, VERMILION)
HOURS = 3600.0


def after(text: str, heading: str, paragraph: str) -> str:
    """The text with a paragraph put before a heading: at the end of the section above it."""
    start = text.index(heading)
    return f"{text[:start]}{paragraph}\n\n{text[start:]}"


def wrapped(text: str) -> str:
    """The text filled to a line length, code blocks left as they are."""
    pieces = re.split(r"(?s)(```.*?```)", text)
    return "\n\n".join(p if p.startswith("```") else render.wrapped(p).strip() for p in pieces) + "\n"


def plot_offers(path: Path, given: Recommendation) -> None:
    """Time and cost of every device and count, rented on demand; for the choice, the range of nine of ten runs."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.4, 4.6), layout="constrained")
        for colour, device in zip(COLOURS, sorted(given.by_device), strict=False):
            if ON_DEMAND not in given.by_device[device]:
                continue
            best = cheapest_by_count(given, device)
            x = [float(offer.outcome().seconds) / HOURS for offer in best]
            y = [float(offer.outcome().usd) for offer in best]
            axis.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.2, label=device)
            for place, offer in enumerate(best):
                # Only the ends of a line are numbered: between them the count doubles from point to point.
                if place in (0, len(best) - 1):
                    label = f"{offer.candidate.num_devices:.0f}"
                    axis.annotate(
                        label,
                        (x[place], y[place]),
                        xytext=(0, 6),
                        textcoords="offset points",
                        ha="center",
                        color=colour,
                        fontsize=8,
                        bbox=PAPER,
                        zorder=4,
                    )
        axis.margins(y=0.1)
        choice = given.best
        seconds, usd = float(choice.outcome().seconds) / HOURS, float(choice.outcome().usd)
        quick, slow = choice.candidate.slowness
        axis.plot([seconds * quick, seconds * slow], [usd * quick, usd * slow], color=GREY, linewidth=5, alpha=0.35)
        axis.plot([], [], color=GREY, linewidth=5, alpha=0.35, label="nine of ten runs of the choice")
        axis.plot(seconds, usd, "o", markersize=10, markerfacecolor="none", markeredgecolor="black", label="the choice")
        axis.set_xscale("log")
        axis.set_yscale("log")
        deadline = given.workload.deadline_seconds
        if deadline:
            axis.axvline(deadline / HOURS, color="black", linewidth=1.0, linestyle=(0, (5, 2)))
            axis.annotate(
                "deadline",
                (deadline / HOURS, 0.97),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="top",
            )
        plain_ticks(axis)
        axis.grid(which="major")
        axis.set_xlabel("time to train, failures and start-up included [hours]")
        axis.set_ylabel("cost, rented on demand [USD]")
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1.4, handlelength=1.6)
        figure.savefig(path)
        plt.close(figure)


def cheapest_by_count(given: Recommendation, device: str) -> list[Offer]:
    """The cheapest rent on demand for every count of a device, fewest devices first."""
    found: dict[float, Offer] = {}
    for offer in given.offers:
        if offer.candidate.device == device and offer.acquisition == ON_DEMAND:
            number = offer.candidate.num_devices
            if number not in found or float(offer.outcome().usd) < float(found[number].outcome().usd):
                found[number] = offer
    return [found[number] for number in sorted(found)]


def plain_ticks(axis: Axes) -> None:
    """Numbers instead of powers of ten on both logarithmic axes."""
    axis.xaxis.set_major_locator(plt.FixedLocator([1, 2, 5, 10, 20, 50, 100, 200]))
    axis.yaxis.set_major_locator(plt.FixedLocator([100, 200, 300, 500, 700, 1000, 1500, 2000, 3000]))
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        each.set_minor_locator(plt.NullLocator())


def plot_tornado(path: Path, given: Recommendation) -> None:
    """Cost of the choice, rented and bought, with one input at either end of its range."""
    ways = given.by_device[given.best.candidate.device]
    offers = [given.best, *([ways[BUY]] if BUY in ways else [])]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(offers), figsize=(9.2, 3.0), layout="constrained", squeeze=False)
        for axis, offer in zip(axes[0], offers, strict=True):
            bars = tornado(offer)[::-1]
            centre = float(offer.outcome().usd)
            reach = max(abs(value - centre) for bar in bars for value in (bar.at_low, bar.at_high))
            for place, bar in enumerate(bars):
                for value, factor, colour in ((bar.at_low, bar.low, BLUE), (bar.at_high, bar.high, ORANGE)):
                    axis.barh(place, value - centre, left=centre, color=colour, height=0.62)
                    side = 1 if value >= centre else -1
                    axis.text(
                        value + side * 0.03 * reach,
                        place,
                        f"x{factor:g}",
                        ha="left" if side > 0 else "right",
                        va="center",
                        fontsize=8,
                    )
            axis.axvline(centre, color="black", linewidth=1.0)
            axis.set_xlim(centre - 1.3 * reach, centre + 1.3 * reach)
            axis.set_yticks(range(len(bars)), [WORDS[bar.name] for bar in bars])
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
            axis.grid(axis="x", color=LIGHT)
            how = "bought" if offer.price.kind == BUY else "rented on demand"
            axis.set_title(f"{offer.candidate.num_devices:.0f} x {offer.candidate.device}, {how}")
            axis.set_xlabel("cost of the run [USD]")
        figure.savefig(path)
        plt.close(figure)
