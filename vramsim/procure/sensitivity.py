"""How much a cost owes to each uncertain input, and how far an input must move to change the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vramsim.bands import LEVELS
from vramsim.catalog.prices import BUY
from vramsim.outcome import FACTORS, Factors
from vramsim.procure.offers import Offer

RANGES: Mapping[str, tuple[float, float]] = {
    "price": (0.7, 1.3),
    "efficiency": (0.8, 1.2),
    "mtbf": (0.25, 4.0),
    "utilization": (0.6, 1.3),
    "power_price": (0.5, 2.0),
}
"""Factors between which each input is thought to lie."""

WORDS = {
    "price": "price",
    "efficiency": "efficiency (tokens/s)",
    "mtbf": "time between failures",
    "utilization": "utilization",
    "power_price": "electricity price",
}
"""How inputs are called in reports."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Cost of a run with one input at either end of its range, everything else as estimated. [USD]"""

    name: str
    at_low: float
    at_high: float
    low: float
    high: float

    @property
    def swing(self) -> float:
        """How much the cost moves. [USD]"""
        return abs(self.at_high - self.at_low)


def inputs(offer: Offer) -> tuple[str, ...]:
    """Inputs that the cost of an offer depends on.

    offer : what is looked at. [-]
    """
    return tuple(name for name in FACTORS if offer.price.kind == BUY or name not in ("utilization", "power_price"))


def tornado(offer: Offer, ranges: Mapping[str, tuple[float, float]] = RANGES) -> list[Bar]:
    """One input after the other at either end of its range, the largest swing first.

    offer : what is looked at. [-]   ranges : input -> smallest and largest factor. [-]
    """
    bars = []
    for name in inputs(offer):
        low, high = ranges[name]
        at_low, at_high = (float(offer.outcome(_one(name, factor)).usd) for factor in (low, high))
        bars.append(Bar(name, at_low, at_high, low, high))
    return sorted(bars, key=lambda bar: -bar.swing)


def sobol(
    offer: Offer, ranges: Mapping[str, tuple[float, float]] = RANGES, samples: int = 1024, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Sobol indices of the cost: share of its variance that an input explains alone, and with all others.

    Each factor is log-uniform in its range, so that halving is as likely as doubling.

    offer : what is looked at. [-]   ranges : input -> smallest and largest factor. [-]
    samples : a power of two. [-]   seed : of the quasi-random points. [-]
    """
    from scipy import stats

    names = inputs(offer)

    def cost(points: NDArray[np.float64]) -> NDArray[np.float64]:
        factors: dict[str, Any] = {name: np.exp(column) for name, column in zip(names, points, strict=True)}
        return np.atleast_2d(offer.outcome(Factors(**factors)).usd)

    spans = [(float(np.log(ranges[name][0])), float(np.log(ranges[name][1]))) for name in names]
    uniform: Any = stats.uniform
    dists = [uniform(low, high - low) for low, high in spans]
    found = stats.sobol_indices(func=cost, n=samples, dists=dists, rng=seed)
    first, total = np.ravel(found.first_order), np.ravel(found.total_order)
    return {name: (float(one), float(all_)) for name, one, all_ in zip(names, first, total, strict=True)}


@dataclass(frozen=True, slots=True)
class Flip:
    """How far one input must move for a rival to become cheaper than the choice: a factor on the rival's own."""

    rival: Offer
    name: str
    factor: float


def flips(choice: Offer, rivals: Sequence[Offer]) -> list[Flip]:
    """Factors on a rival's price, and on its speed, at which it costs as much as the choice.

    choice : what is recommended. [-]   rivals : offers instead of it. [-]
    """
    from scipy.optimize import brentq

    target = float(choice.outcome().usd)
    found = []
    for rival in rivals:
        for name, ends in (("price", (1e-3, 1e3)), ("efficiency", (1e-2, 1e3))):

            def excess(factor: float, rival: Offer = rival, name: str = name) -> float:
                return float(rival.outcome(_one(name, factor)).usd) - target

            if excess(ends[0]) * excess(ends[1]) < 0.0:
                found.append(Flip(rival, name, float(brentq(excess, *ends))))
    return found


def chance_cheaper(rival: Offer, choice: Offer, samples: int = 4096) -> float:
    """Probability that a rival turns out cheaper than the choice, when speeds err as those of measured runs did. [-]

    The two errors are drawn independently. What both have in common (the model is off in the same way for both) makes
    the ranking surer than this.

    rival : offer instead of the choice. [-]   choice : what is recommended. [-]   samples : a power of two. [-]
    """
    from scipy.stats import qmc

    points = qmc.Sobol(2, rng=0).random_base2(int(np.log2(samples)))
    costs = []
    for offer, levels in zip((rival, choice), points.T, strict=True):
        faster = np.exp(np.interp(levels, LEVELS, offer.candidate.estimate.rate_errors().quantiles))
        costs.append(np.asarray(offer.outcome(Factors(efficiency=faster)).usd))
    return float(np.mean(costs[0] < costs[1]))


def _one(name: str, factor: float) -> Factors:
    return Factors(**{name: factor})
